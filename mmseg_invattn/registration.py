"""Decides when this package is registered in MMSegmentation.

``custom_imports = dict(imports=['mmseg_invattn'])`` has to register everything, but ``import mmseg_invattn.layers`` in
a program without MMSegmentation has to import only torch. In both cases Python imports the package ``mmseg_invattn``
first. So the package registers immediately if mmengine or mmseg is imported already, which is the case whenever a
config is read, and otherwise as soon as mmseg is imported.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

NEEDED = ('mmengine', 'mmcv', 'mmseg')
PARTS = ('models', 'datasets', 'engine', 'evaluation', 'experiments')  # imported for their registrations


def follow_mmengine() -> None:
    """Registers now, or when mmseg is imported."""
    # The doctor must run even if mmseg cannot be imported, and `python -m` imports the package first.
    if 'mmseg_invattn.doctor' in sys.orig_argv or not all(map(find_spec, NEEDED)):
        return
    if 'mmengine' in sys.modules or 'mmseg' in sys.modules:
        register()
    else:
        sys.meta_path.insert(0, _AfterMmseg())


def register() -> None:
    """Imports the modules that register themselves, after the workarounds for mmcv and mmseg."""
    from .compat import quiet_import_of_mmseg

    _prepare()
    with quiet_import_of_mmseg():
        importlib.import_module('mmseg.datasets')
        for part in PARTS:
            importlib.import_module(f'mmseg_invattn.{part}')


def _prepare() -> None:
    from . import compat

    compat.provide_mmcv_ops_stub()
    compat.provide_in1d()
    compat.silence_warnings()


class _AfterMmseg(MetaPathFinder):
    """Intercepts ``import mmseg``: applies the workarounds, lets Python import it, and then registers."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != 'mmseg':
            return None
        sys.meta_path.remove(self)
        _prepare()
        spec = find_spec(name)
        spec.loader = _Registering(spec.loader)
        return spec


class _Registering(Loader):
    """Wraps the loader of mmseg and registers after the import."""

    def __init__(self, loader: Loader):
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__.loader = module.__loader__ = self.loader
        try:
            self.loader.exec_module(module)
            register()
        except BaseException:
            sys.meta_path.insert(0, _AfterMmseg())  # for the next attempt to import it
            raise
