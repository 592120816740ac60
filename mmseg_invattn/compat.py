"""The quirks of mmcv, mmengine, mmseg, ``torch.load`` and CPU data-parallel training, known here and nowhere else.

- mmcv without compiled ops: ``import mmseg`` fails on a missing ``mmcv._ext`` -> :func:`provide_mmcv_ops_stub`.
- MMEngine's launchers call ``torch.cuda.set_device`` also where there is no GPU -> :func:`prepare_distributed`.
- MMEngine unpickles what it loads, silently -> :func:`use_safe_checkpoint_loading`, :func:`read_checkpoint`.
- cityscapesscripts 2.3 calls ``np.in1d``, which NumPy 2.4 has removed -> :func:`provide_in1d`.
- ``AmpOptimWrapper`` asserts a GPU -> :func:`mixed_precision_available`.
"""
from __future__ import annotations

import io
import os
import pickle
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

# ---------------------------------------------------------------------------------------------------- compiled ops


class _MissingOps(ModuleType):
    """Stands in for ``mmcv._ext``: every op can be looked up, none can be called."""

    def __getattr__(self, name: str) -> Callable:
        if name.startswith('__'):
            raise AttributeError(name)

        def missing_op(*args: Any, **kwargs: Any) -> None:
            raise RuntimeError(f'the op mmcv.ops.{name} needs compiled code, which the installed mmcv does not have; '
                               'install a build of mmcv with ops, or use a model that does without')

        return missing_op


def provide_mmcv_ops_stub() -> bool:
    """Make ``import mmseg`` work where mmcv has no compiled ops.

    Call it before mmseg is imported. It does nothing where mmcv has its ops, or is absent.

    Returns:
        Whether mmcv is running on the stub.
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
    """Let the official Cityscapes evaluation run on NumPy 2.4 and later: ``np.in1d`` is ``np.isin`` of flat arrays."""
    import numpy as np

    if not hasattr(np, 'in1d'):
        np.in1d = lambda a, b, **options: np.isin(np.ravel(a), b, **options)


# ------------------------------------------------------------------------------------------------------ distributed


def mixed_precision_available() -> bool:
    """Tell whether MMEngine's ``AmpOptimWrapper`` can run here; it refuses a CPU."""
    from mmengine.device import get_device

    return get_device() not in ('cpu', 'mps')


def prepare_distributed(cfg: Any, launcher: str) -> None:
    """Let MMEngine train data-parallel on CPUs; leave GPUs to MMEngine.

    Joins the gloo group before the Runner is built, wraps the model without device ids, and turns SyncBN, which
    refuses a CPU, into BN.

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
        type='MMDistributedDataParallel', broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False))
    cfg.model_wrapper_cfg = dict(wrapper, device_ids=None)
    has_sync_bn = cfg.get('sync_bn') is not None
    cfg.sync_bn = None
    if _replace_sync_bn(cfg.model) or has_sync_bn:
        print_log('No GPU: SyncBN refuses a CPU, so batch norm takes its statistics per process.', logger='current')


def _read_ranks(launcher: str) -> None:
    """Set what ``torch.distributed`` reads (RANK, WORLD_SIZE, ...) from the variables of the launcher."""
    names = dict(slurm=('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
                 mpi=('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
                 pytorch=('RANK', 'WORLD_SIZE', 'LOCAL_RANK'))[launcher]
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise RuntimeError(f'--launcher {launcher}: the environment lacks {", ".join(missing)}; start the processes '
                           'with tools/dist_train.sh (pytorch), tools/slurm_train.sh (slurm) or mpirun (mpi)')
    for target, source in zip(('RANK', 'WORLD_SIZE', 'LOCAL_RANK'), names, strict=True):
        os.environ[target] = os.environ[source]
    if launcher == 'slurm' and 'MASTER_ADDR' not in os.environ:
        hosts = subprocess.run(['scontrol', 'show', 'hostname', os.environ['SLURM_NODELIST']], check=True,
                               capture_output=True, text=True).stdout
        os.environ['MASTER_ADDR'] = hosts.split()[0]
    os.environ.setdefault('MASTER_ADDR', '127.0.0.1')
    os.environ.setdefault('MASTER_PORT', '29500')


def _replace_sync_bn(node: Any) -> int:
    """Turn every ``type='SyncBN'`` below a config node into BN; tell how many there were."""
    if isinstance(node, dict):
        found = int(node.get('type') == 'SyncBN')
        if found:
            node['type'] = 'BN'
        return found + sum(_replace_sync_bn(value) for value in node.values())
    return sum(_replace_sync_bn(value) for value in node) if isinstance(node, (list, tuple)) else 0


# ------------------------------------------------------------------------------------------------------ checkpoints


class UnsafeCheckpointError(ValueError):
    """A checkpoint that cannot be loaded without running code it contains."""


class DamagedCheckpointError(ValueError):
    """A checkpoint that is truncated, empty, or no checkpoint at all."""


@contextmanager
def _checkpoint_errors(name: str) -> Iterator[None]:
    """Translate what ``torch.load`` raises into errors that name the file, the rule and the fix."""
    try:
        yield
    except (pickle.UnpicklingError, RuntimeError) as error:
        text = str(error)
        if isinstance(error, pickle.UnpicklingError) or 'weights_only=True' in text:
            culprit = re.search(r'GLOBAL (\S+)', text)
            what = f'it asks for {culprit[1]}' if culprit else 'it holds more than tensors and plain values'
            raise UnsafeCheckpointError(
                f'{name}: refused, because loading it would unpickle, and so run, what the file contains ({what}). '
                'Checkpoints must load with weights_only=True. If you trust where the file comes from, pass '
                '--trust-checkpoint to the tool, or trust_checkpoint=True to init_model.') from error
        if 'PytorchStreamReader' in text or 'unexpected EOF' in text:
            raise DamagedCheckpointError(f'{name}: the checkpoint is truncated or damaged ({text.splitlines()[0]}); '
                                         'use an earlier one, or fetch it again') from error
        raise
    except EOFError as error:
        raise DamagedCheckpointError(f'{name}: the checkpoint ends too early; use an earlier one') from error


def read_checkpoint(path: str | os.PathLike, map_location: Any = None, trust: bool = False, mmap: bool = False) -> Any:
    """Load a checkpoint file without running anything it contains.

    Args:
        path: The file.
        map_location: As for ``torch.load``.
        trust: Unpickle arbitrary objects as well.
        mmap: Leave the tensors on disk until they are used; for a look at the rest of the checkpoint.

    Returns:
        What the file holds.

    Raises:
        FileNotFoundError: If there is no such file.
        UnsafeCheckpointError: If the file needs more than tensors and plain values, and is not trusted.
        DamagedCheckpointError: If the file is truncated, or no checkpoint.
    """
    import torch

    path = os.path.expanduser(os.fspath(path))
    if not os.path.isfile(path):
        raise FileNotFoundError(f'{path}: there is no such checkpoint file')
    with open(path, 'rb') as file:
        head = file.read(4)
    is_zip, is_pickle = head == b'PK\x03\x04', head[:1] == b'\x80'
    if is_zip and not zipfile.is_zipfile(path):
        raise DamagedCheckpointError(f'{path}: the checkpoint is truncated (its end is missing); use an earlier one')
    if not (is_zip or is_pickle or path.endswith('.safetensors')):
        raise DamagedCheckpointError(f'{path}: this is not a checkpoint (empty, or another kind of file)')
    with _checkpoint_errors(path):
        return torch.load(path, map_location=map_location, weights_only=not trust, mmap=mmap and is_zip)


def use_safe_checkpoint_loading(trust: bool = False) -> None:
    """Make every checkpoint that MMEngine loads in this process pass through :func:`read_checkpoint`'s rule.

    This replaces the loaders of all schemes (local files, http, torchvision://, open-mmlab://, s3://, ...): MMEngine's
    own fall back to unpickling whatever the file contains.

    Args:
        trust: Unpickle arbitrary objects as well, in this process, from now on.
    """
    import torch
    from mmengine.dist import get_dist_info
    from mmengine.fileio import get_file_backend
    from mmengine.runner import CheckpointLoader
    from mmengine.runner import checkpoint as stock
    from torch.utils.model_zoo import load_url

    def load_from_local(filename: str, map_location: Any) -> Any:
        return read_checkpoint(filename, map_location, trust)

    def load_from_http(filename: str, map_location: Any = None) -> Any:
        rank, world_size = get_dist_info()
        if rank > 0:  # rank 0 downloads, the others find the file in the cache
            torch.distributed.barrier()
        with _checkpoint_errors(filename):
            checkpoint = load_url(filename, map_location=map_location, progress=False, weights_only=not trust)
        if rank == 0 and world_size > 1:
            torch.distributed.barrier()
        return checkpoint

    def load_from_torchvision(filename: str, map_location: Any = None) -> Any:
        return load_from_http(stock.get_torchvision_models()[filename.split('://', 1)[1]], map_location)

    def load_from_openmmlab(filename: str, map_location: Any = None) -> Any:
        name = filename.split('://', 1)[1]
        url = stock.get_external_models()[stock.get_deprecated_model_names().get(name, name)]
        if url.startswith(('http://', 'https://')):
            return load_from_http(url, map_location)
        return load_from_local(os.path.join(stock._get_mmengine_home(), url), map_location)

    def load_from_mmcls(filename: str, map_location: Any = None) -> Any:
        url = stock.get_mmcls_models()[filename.split('://', 1)[1]]
        return stock._process_mmcls_checkpoint(load_from_http(url, map_location))

    def load_from_ceph(filename: str, map_location: Any = None) -> Any:
        data = get_file_backend(filename, backend_args=dict(backend='petrel')).get(filename)
        with _checkpoint_errors(filename):
            return torch.load(io.BytesIO(data), map_location=map_location, weights_only=not trust)

    def load_from_unknown(filename: str, map_location: Any = None) -> Any:
        raise UnsafeCheckpointError(f'{filename}: checkpoints of this scheme cannot be loaded safely; '
                                    'download the file and give its path')

    loaders = {'': load_from_local, 'http': load_from_http, 'torchvision': load_from_torchvision,
               'modelzoo': load_from_torchvision, 'open-mmlab': load_from_openmmlab, 'openmmlab': load_from_openmmlab,
               'mmcls': load_from_mmcls, r'(\S+\:)?s3': load_from_ceph, r'(\S+\:)?petrel': load_from_ceph}
    loaders['https'] = load_from_http
    for prefix in list(CheckpointLoader._schemes):
        loader = loaders.get(prefix.split('://')[0], load_from_unknown)
        CheckpointLoader.register_scheme(prefix, loader, force=True)
