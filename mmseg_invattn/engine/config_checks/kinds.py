"""Tells from the place of a dict in a config which registry it is built from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mmengine.registry import Registry
from mmseg import registry
from torch.utils.data import DataLoader

from .tree import Keys

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


@dataclass(frozen=True)
class Kind:
    """The kind of object that is built from a dict.

    Attributes:
        name: its name in messages.
        registries: the registries that know its types; empty if the dict has no type and describes ``default``.
        default: class, or its registered name, of a dict without ``type``.
        given: arguments that the program passes itself, or removes from the dict before.
        arguments: whether the other entries are arguments of the class; False if code in between changes them.
    """

    name: str
    registries: tuple[Registry, ...] = ()
    default: str | Callable | None = None
    given: frozenset[str] = field(default_factory=frozenset)
    arguments: bool = True

    def find(self, name: str | Callable) -> Callable | None:
        """The registered class of that name; None if there is none."""
        if not isinstance(name, str):
            return name if callable(name) else None
        for one in self.registries:
            try:
                found = one.get(name)
            except (RuntimeError, ValueError, ImportError):  # raised if there is no such module
                found = None
            if found is not None:
                return found
        return None

    def names(self) -> list[str]:
        """All registered names, to suggest similar ones."""
        found: list[str] = []
        for one in self.registries:
            while one is not None:
                found += one.module_dict
                one = one.parent
        return found


def _kind(name: str, *registries: Registry, given: str = '', **more) -> Kind:
    return Kind(name, registries, given=frozenset(given.split()), **more)


MODEL = _kind('model', registry.MODELS)
LAYER = _kind('layer', registry.MODELS, arguments=False)  # built by functions of mmcv that take some entries out
LOOP = _kind('loop', registry.LOOPS, given='runner dataloader evaluator by_epoch')
EVALUATOR = _kind('metric', registry.METRICS, registry.EVALUATOR)
SAMPLER = _kind('sampler', registry.DATA_SAMPLERS, given='dataset seed sampler batch_size')
DATASET = _kind('data set', registry.DATASETS, given='lazy_init')
TRANSFORM = _kind('transform', registry.TRANSFORMS)
HOOK = _kind('hook', registry.HOOKS, given='priority')
BACKEND = _kind('visualisation backend', registry.VISBACKENDS, given='save_dir')
LOADER = _kind(
    'dataloader',
    default=DataLoader,
    given='dataset sampler batch_sampler collate_fn worker_init_fn num_batch_per_epoch disable_subprocess_warning',
)
PLACES = {
    ('model',): MODEL,
    ('tta_model',): _kind('model', registry.MODELS, given='module'),
    ('optim_wrapper',): _kind(
        'optimiser wrapper',
        registry.OPTIM_WRAPPERS,
        given='optimizer constructor paramwise_cfg',
        default='OptimWrapper',
    ),
    ('optim_wrapper', 'optimizer'): _kind('optimiser', registry.OPTIMIZERS, given='params'),
    ('param_scheduler',): _kind(
        'scheduler', registry.PARAM_SCHEDULERS, given='optimizer convert_to_iter_based epoch_length'
    ),
    ('train_cfg',): LOOP,
    ('val_cfg',): LOOP,
    ('test_cfg',): LOOP,
    ('val_evaluator',): EVALUATOR,
    ('test_evaluator',): EVALUATOR,
    ('custom_hooks',): HOOK,
    ('visualizer',): _kind('visualizer', registry.VISUALIZERS),
    ('visualizer', 'vis_backends'): BACKEND,
    ('log_processor',): _kind('log processor', registry.LOG_PROCESSORS, default='LogProcessor'),
} | {(name,): LOADER for name in LOADERS}
LAYERS = ('norm_cfg', 'conv_cfg', 'act_cfg')
# entries of models that are not modules, or are changed before something is built from them
OTHERS = ('init_cfg', 'train_cfg', 'test_cfg', 'sampler', 'upsample_cfg', 'assigner', 'pretrained')


def kind_at(keys: Keys, config: Mapping) -> Kind | None:
    """The kind of object at a path; None if it is not known."""
    names = tuple(key for key in keys if isinstance(key, str))
    if names in PLACES:
        return PLACES[names]
    if names[0] == 'default_hooks' and len(names) == 2:
        return HOOK
    if names[0] == 'model' and 'type' in config and not set(names[1:]) & set(OTHERS):
        return LAYER if names[-1].endswith(LAYERS) else MODEL
    if names[0] in LOADERS:
        return _in_loader(names)
    if names[0] == 'tta_pipeline' and set(names[1:]) <= {'transforms'}:
        return TRANSFORM
    return None


def _in_loader(names: tuple[str, ...]) -> Kind | None:
    inside = names[1:]
    if 'pipeline' in inside:
        return TRANSFORM if set(inside[inside.index('pipeline') + 1 :]) <= {'transforms'} else None
    if set(inside) <= {'dataset', 'datasets'}:
        return DATASET
    return SAMPLER if inside in (('sampler',), ('batch_sampler',)) else None
