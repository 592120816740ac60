"""Decides when this package is registered in MMSegmentation, and makes MMEngine's loading of checkpoints safe.

``custom_imports = dict(imports=['mmseg_invattn'])`` has to register everything, but ``import mmseg_invattn.layers`` in
a program without MMSegmentation has to import only torch. In both cases Python imports the package ``mmseg_invattn``
first. So the package registers immediately if mmengine or mmseg is imported already, which is the case whenever a
config is read, and otherwise as soon as mmseg is imported.

MMEngine unpickles whatever a checkpoint contains, which can run code. After the import of this package it no longer
does, whichever of the two is imported first. If a checkpoint is loaded before mmseg is imported, the modules that safe
loading needs are imported then.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

LOADING = 'mmengine.runner.checkpoint'  # the module that loads checkpoints
NEEDED = ('mmengine', 'mmcv', 'mmseg')
PARTS = ('models', 'datasets', 'engine', 'evaluation', 'experiments')  # imported for their registrations


def follow_mmengine() -> None:
    """Registers now, or when mmseg is imported, and makes loading safe."""
    # The doctor must run even if mmseg cannot be imported, and `python -m` imports the package first.
    if 'mmseg_invattn.doctor' in sys.orig_argv or not all(map(find_spec, NEEDED)):
        return
    if LOADING in sys.modules:
        _make_safe(sys.modules[LOADING])
    else:
        sys.meta_path.insert(0, _After(LOADING, _make_safe))
    if 'mmengine' in sys.modules or 'mmseg' in sys.modules:
        register()
    else:
        sys.meta_path.insert(0, _After('mmseg', lambda module: register(), _prepare))


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


def _make_safe(loading: ModuleType) -> None:
    """Replaces each loader of MMEngine by a function that installs the safe loaders and then calls the one it needs."""

    def load_from_safe(filename: str, map_location: Any = None) -> Any:
        from .engine.checkpoints import use_safe_checkpoint_loading

        use_safe_checkpoint_loading()
        return loading.CheckpointLoader._get_checkpoint_loader(filename)(filename, map_location)

    for prefix in list(loading.CheckpointLoader._schemes):
        loading.CheckpointLoader.register_scheme(prefix, load_from_safe, force=True)


class _After(MetaPathFinder):
    """Intercepts the import of a module: lets Python import it, and then calls a function.

    Args:
        name: Name of the module.
        act: Called with the module after the import.
        prepare: Called before the import.
    """

    def __init__(self, name: str, act: Callable[[ModuleType], None], prepare: Callable[[], None] = lambda: None):
        self.name, self.act, self.prepare = name, act, prepare

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        self.prepare()
        spec = find_spec(name)
        spec.loader = _Acting(spec.loader, self)
        return spec


class _Acting(Loader):
    """Wraps the loader of the module and calls the function after the import."""

    def __init__(self, loader: Loader, after: _After):
        self.loader, self.after = loader, after

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__.loader = module.__loader__ = self.loader
        try:
            self.loader.exec_module(module)
            self.after.act(module)
        except BaseException:
            sys.meta_path.insert(0, self.after)  # for the next attempt to import it
            raise
