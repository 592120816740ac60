"""Certified invertible attention for MMSegmentation.

``mmseg_invattn.ops`` and ``mmseg_invattn.layers`` need torch alone. Where MMSegmentation is installed, importing
the package also registers the heads, backbones, data sets, metrics and hooks, so that one line in a config is enough::

    custom_imports = dict(imports=['mmseg_invattn'])
"""
import sys
from importlib.util import find_spec

__version__ = '0.1.0'

# the doctor must run where importing the stack fails, and `python -m` imports the package first
_EXAMINED = 'mmseg_invattn.doctor' in sys.orig_argv

if not _EXAMINED and all(find_spec(name) for name in ('mmengine', 'mmcv', 'mmseg')):
    from . import compat

    compat.provide_mmcv_ops_stub()
    compat.provide_in1d()
    from . import datasets, engine, evaluation, models  # noqa: F401  (imported for their registrations)
