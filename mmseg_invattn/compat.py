"""Workarounds for mmcv, mmengine, mmseg and data-parallel training on CPUs. They are all in this file.

- mmcv without compiled ops: ``import mmseg`` fails on a missing ``mmcv._ext`` -> :func:`provide_mmcv_ops_stub`.
- MMEngine's launchers call ``torch.cuda.set_device`` even without a GPU -> :func:`prepare_distributed`.
- MMEngine 0.10.7 loads the data of all iterations before a resume again -> :func:`skip_trained_data`.
- cityscapesscripts 2.3 calls ``np.in1d``, which NumPy 2.4 has removed -> :func:`provide_in1d`.
- oneDNN keeps compiled programs for 1024 image sizes -> :func:`bound_primitive_cache`.
- ``AmpOptimWrapper`` asserts a GPU -> :func:`mixed_precision_available`.
- Configs of the new style name a class by the class itself, others by a string -> :func:`type_name`.
- Warnings about code inside mmseg and mmengine, which users cannot change -> :func:`silence_warnings`,
  :func:`silence_log`.
- onedl-mmsegmentation prints twice that an optional package is missing -> :func:`quiet_import_of_mmseg`.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from inspect import isclass, isroutine
from types import ModuleType
from typing import Any

# ------------------------------------------------------------------------------------------------------- config types


def type_name(kind: Any) -> str:
    """The name of the class that a config asks for.

    Args:
        kind: The value of ``type``, or the dict that contains it. The value is a class, as in pure Python configs, or
            a string, with its package (``'mmengine.OptimWrapper'``) or without.

    Returns:
        The name without a package; empty if there is none.
    """
    if isinstance(kind, Mapping):
        kind = kind.get('type')
    if kind is None:
        return ''
    # a lazy import object has every attribute, so only classes and functions are asked for their name
    return kind.__name__ if isclass(kind) or isroutine(kind) else str(kind).rpartition('.')[-1]


# ---------------------------------------------------------------------------------------------------- compiled ops


class _MissingOps(ModuleType):
    """Replaces ``mmcv._ext``: every op can be looked up, but calling it raises an error."""

    def __getattr__(self, name: str) -> Callable:
        if name.startswith('__'):
            raise AttributeError(name)

        def missing_op(*args: Any, **kwargs: Any) -> None:
            raise RuntimeError(
                f'the op mmcv.ops.{name} needs compiled code, which the installed mmcv does not have: '
                'install a build of mmcv with compiled ops, or use a model that does not need them'
            )

        return missing_op


def provide_mmcv_ops_stub() -> bool:
    """Makes ``import mmseg`` work if mmcv has no compiled ops.

    Call it before mmseg is imported. It does nothing if mmcv has its ops or is not installed.

    Returns:
        Whether mmcv uses the stub.
    """
    if isinstance(sys.modules.get('mmcv._ext'), _MissingOps):
        return True
    if find_spec('mmcv') is None or find_spec('mmcv._ext') is not None:
        return False
    stub = _MissingOps('mmcv._ext')
    stub.__spec__ = ModuleSpec('mmcv._ext', loader=None)
    sys.modules['mmcv._ext'] = stub
    return True


def provide_in1d() -> None:
    """Makes the official Cityscapes evaluation work with NumPy 2.4 and later, by adding ``np.in1d`` again."""
    import numpy as np

    if not hasattr(np, 'in1d'):
        np.in1d = lambda a, b, **options: np.isin(np.ravel(a), b, **options)


# --------------------------------------------------------------------------------------------------- primitive cache

PRIMITIVES = 128  # compiled programs that are kept; each takes about 0.1 MB


def bound_primitive_cache() -> None:
    """Make oneDNN, which computes convolutions on CPUs, keep fewer of the programs that it compiles for each size.

    By default it keeps 1024, so that a process that sees images of many sizes grows by hundreds of MB. Call this
    function before the first convolution. A value that the user has set is kept.
    """
    os.environ.setdefault('ONEDNN_PRIMITIVE_CACHE_CAPACITY', str(PRIMITIVES))


# --------------------------------------------------------------------------------------------------------- warnings

# beginning of a warning, and the module that raises it
WARNINGS = (
    ('The draw is False, it means that the hook for visualization', 'mmseg.engine.hooks.visualization_hook'),
    ('Default ``avg_non_ignore`` is False', 'mmseg.models.losses.cross_entropy_loss'),
    ('``build_loss`` would be deprecated soon', 'mmseg.models.builder'),
    ('`reduce_zero_label` will be deprecated', 'mmseg.datasets.transforms.loading'),
    ('Fail to import ``MultiScaleDeformableAttention``', 'mmseg'),
    ('The shape of value will convert from', 'mmengine.structures.pixel_data'),
)
# beginnings of lines in the log
LINES = (
    'The prefix is not set in metric class',
    '"FileClient" will be deprecated',
    '"HardDiskBackend" is the alias of "LocalBackend"',
)


def silence_warnings() -> None:
    """Hides warnings of mmseg and mmengine about their own code, and no other warnings."""
    for message, module in WARNINGS:
        warnings.filterwarnings('ignore', re.escape(message), module=re.escape(module))


def silence_log(logger: logging.Logger) -> None:
    """Hides the lines of mmseg and mmengine about their own code in the log of a Runner."""
    logger.addFilter(lambda record: not str(record.msg).startswith(LINES))


@contextmanager
def quiet_import_of_mmseg() -> Iterator[None]:
    """Hides the line that mmseg prints twice if the optional package ``onedl`` is missing."""
    from mmengine import logging

    print_log = logging.print_log

    def print_other_lines(message: Any, *args: Any, **kwargs: Any) -> None:
        if message != 'Could not import OneDL':
            print_log(message, *args, **kwargs)

    logging.print_log = print_other_lines
    try:
        yield
    finally:
        logging.print_log = print_log


# ----------------------------------------------------------------------------------------------------------- resume


class _BehindTrainedData:
    """Batches of a loader whose sampler has skipped some; the calls for the skipped batches load nothing."""

    def __init__(self, batches: Iterator, skipped: int) -> None:
        self._batches, self._skipped = batches, skipped

    def __iter__(self) -> _BehindTrainedData:
        return self

    def __next__(self) -> Any:
        if self._skipped > 0:
            self._skipped -= 1
            return None
        return next(self._batches)


def skip_trained_data(loop: Any) -> None:
    """Make the sampler of a resumed training loop skip the data of past iterations, which MMEngine would load again.

    MMEngine 0.10.7 loads a batch for each past iteration, which takes 44 s for 1000 iterations of the demo;
    onedl-mmengine makes the sampler skip them. Samplers that cannot skip, loops of epochs, and batch samplers are not
    changed.

    Args:
        loop: The training loop, whose iteration is already that of the checkpoint.
    """
    batches = getattr(loop, 'dataloader_iterator', None)
    if batches is None or hasattr(batches, 'skip_iter') or not loop.iter:
        return
    sampler, batch_size = loop.dataloader.sampler, loop.dataloader.batch_size
    if batch_size is None:
        return
    samples = loop.iter * batch_size
    if hasattr(sampler, 'skip'):
        sampler.skip(samples)
    elif hasattr(sampler, '_indices_of_rank'):  # MMEngine's InfiniteSampler, which hands out a generator
        sampler.indices = itertools.islice(sampler._indices_of_rank(), samples, None)
    else:
        return
    loop.dataloader_iterator = _BehindTrainedData(type(batches)(loop.dataloader), loop.iter)


# ------------------------------------------------------------------------------------------------------ distributed


def mixed_precision_available() -> bool:
    """Whether MMEngine's ``AmpOptimWrapper`` can be used here; it does not run on a CPU."""
    from mmengine.device import get_device

    return get_device() not in ('cpu', 'mps')


def prepare_distributed(cfg: Any, launcher: str) -> None:
    """Makes data-parallel training with MMEngine work on CPUs; on GPUs it does nothing.

    Initialises the gloo group before the Runner is built, wraps the model without device ids, and replaces SyncBN,
    which does not run on a CPU, by BN.

    Args:
        cfg: The config, changed in place.
        launcher: How the processes were started: ``none``, ``pytorch``, ``slurm`` or ``mpi``.

    Raises:
        RuntimeError: If the environment lacks what the launcher should have set.
    """
    from mmengine.device import get_device
    from mmengine.logging import print_log
    from torch import distributed as torch_dist

    if launcher == 'none' or get_device() not in ('cpu', 'mps'):
        return
    _read_ranks(launcher)
    if not torch_dist.is_initialized():
        seconds = cfg.get('env_cfg', {}).get('dist_cfg', {}).get('timeout', 1800)
        torch_dist.init_process_group('gloo', timeout=timedelta(seconds=seconds))
    wrapper = cfg.get('model_wrapper_cfg') or dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
    cfg.model_wrapper_cfg = dict(wrapper, device_ids=None)
    has_sync_bn = cfg.get('sync_bn') is not None
    cfg.sync_bn = None
    if _replace_sync_bn(cfg.model) or has_sync_bn:
        print_log(
            'No GPU: SyncBN does not run on a CPU, so batch norm uses the statistics of each process.', logger='current'
        )


# Launcher -> the variables with the number of a process, the number of processes, and the number on its machine.
RANKS = dict(
    slurm=('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
    mpi=('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
    pytorch=('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
)


def _read_ranks(launcher: str) -> None:
    """Sets the variables of ``torch.distributed`` (RANK, WORLD_SIZE, ...) from those of the launcher."""
    names = RANKS[launcher]
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise RuntimeError(
            f'--launcher {launcher}: {", ".join(missing)} missing in the environment: start the processes '
            'with tools/dist_train.sh (pytorch), tools/slurm_train.sh (slurm) or mpirun (mpi)'
        )
    for target, source in zip(('RANK', 'WORLD_SIZE', 'LOCAL_RANK'), names, strict=True):
        os.environ[target] = os.environ[source]
    if launcher == 'slurm' and 'MASTER_ADDR' not in os.environ:
        hosts = subprocess.run(
            ['scontrol', 'show', 'hostname', os.environ['SLURM_NODELIST']], check=True, capture_output=True, text=True
        ).stdout
        os.environ['MASTER_ADDR'] = hosts.split()[0]
    os.environ.setdefault('MASTER_ADDR', '127.0.0.1')
    os.environ.setdefault('MASTER_PORT', '29500')


def _replace_sync_bn(node: Any) -> int:
    """Replaces every ``type='SyncBN'`` below a config node by BN and returns their number."""
    if isinstance(node, dict):
        found = int(type_name(node) in ('SyncBN', 'SyncBatchNorm'))
        if found:
            node['type'] = 'BN'
        return found + sum(_replace_sync_bn(value) for value in node.values())
    return sum(_replace_sync_bn(value) for value in node) if isinstance(node, (list, tuple)) else 0
