"""Certified invertible attention for MMSegmentation.

``mmseg_invattn.ops`` and ``mmseg_invattn.layers`` need and import only torch. In a program that uses MMSegmentation,
importing the package also registers the heads, backbones, data sets, metrics and hooks, so that one line in a config is
enough::

    custom_imports = dict(imports=['mmseg_invattn'])
"""

from . import registration
from .version import __version__  # noqa: F401  (part of the package's interface)

registration.follow_mmengine()
