"""Checkpoints load without running what they contain, and damaged ones are named.

MMEngine unpickles whatever a file holds, silently; here everything that is loaded passes one rule.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


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
                '--trust-checkpoint to the tool, or trust_checkpoint=True to init_model.'
            ) from error
        if 'PytorchStreamReader' in text or 'unexpected EOF' in text:
            raise DamagedCheckpointError(
                f'{name}: the checkpoint is truncated or damaged ({text.splitlines()[0]}); '
                'use an earlier one, or fetch it again'
            ) from error
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

    from ..models.package_weights import load_from_package

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
        raise UnsafeCheckpointError(
            f'{filename}: checkpoints of this scheme cannot be loaded safely; download the file and give its path'
        )

    loaders = {
        '': load_from_local,
        'http': load_from_http,
        'torchvision': load_from_torchvision,
        'modelzoo': load_from_torchvision,
        'open-mmlab': load_from_openmmlab,
        'openmmlab': load_from_openmmlab,
        'mmcls': load_from_mmcls,
        'package': load_from_package,
        r'(\S+\:)?s3': load_from_ceph,
        r'(\S+\:)?petrel': load_from_ceph,
    }
    loaders['https'] = load_from_http
    for prefix in list(CheckpointLoader._schemes):
        loader = loaders.get(prefix.split('://')[0], load_from_unknown)
        CheckpointLoader.register_scheme(prefix, loader, force=True)
