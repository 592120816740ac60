"""Makes every checkpoint load without running code in it, and with a clear error if it is damaged.

MMEngine itself silently unpickles whatever a file holds. Here every file passes the checks of :func:`read_checkpoint`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlparse

from mmengine.dist import get_dist_info
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as stock

from .checkpoint_reading import UnsafeCheckpointError, load_checked, read_checkpoint
from .integrity import DamagedCheckpointError, NonFiniteWeightsError
from .weights import check_holds_weights

__all__ = [
    'DamagedCheckpointError',
    'NonFiniteWeightsError',
    'UnsafeCheckpointError',
    'read_checkpoint',
    'trusting',
    'use_safe_checkpoint_loading',
]

_trusted = False  # whether checkpoints may run code in this process


def use_safe_checkpoint_loading(trust: bool = False) -> None:
    """Make every checkpoint that MMEngine loads in this process pass through :func:`read_checkpoint`.

    This replaces the loaders of all schemes (local files, http, torchvision://, open-mmlab://, s3://, ...): MMEngine's
    own fall back to unpickling whatever the file contains. ``import mmseg_invattn`` does it in any program that uses
    MMEngine.

    Args:
        trust: Unpickle arbitrary objects too, from now on in this process. Only for checkpoints whose source you trust.
    """
    global _trusted
    _trusted = trust
    for prefix in list(CheckpointLoader._schemes):
        loader = _loaders().get(prefix.split('://')[0], _load_from_unknown)
        CheckpointLoader.register_scheme(prefix, loader, force=True)


@contextmanager
def trusting(trust: bool) -> Iterator[None]:
    """Trust checkpoints, or do not, inside the with statement; afterwards the setting is as before."""
    before = _trusted
    use_safe_checkpoint_loading(trust)
    try:
        yield
    finally:
        use_safe_checkpoint_loading(before)


def load_from_local(filename: str, map_location: Any = None) -> Any:
    checkpoint = read_checkpoint(filename, map_location, _trusted)
    check_holds_weights(checkpoint, filename)
    return checkpoint


def load_from_http(filename: str, map_location: Any = None) -> Any:
    import torch

    path = os.path.join(torch.hub.get_dir(), 'checkpoints', os.path.basename(urlparse(filename).path))
    rank, world_size = get_dist_info()
    if rank > 0:  # wait for rank 0, which downloads the file into the cache
        torch.distributed.barrier()
    if not os.path.isfile(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        torch.hub.download_url_to_file(filename, path, progress=False)
    if rank == 0 and world_size > 1:
        torch.distributed.barrier()
    return load_from_local(path, map_location)


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
    from mmengine.fileio import get_file_backend

    data = get_file_backend(filename, backend_args=dict(backend='petrel')).get(filename)
    checkpoint = load_checked(io.BytesIO(data), filename, map_location, _trusted)
    check_holds_weights(checkpoint, filename)
    return checkpoint


def _load_from_package(filename: str, map_location: Any = None) -> Any:
    from ..models.package_weights import load_from_package

    return load_from_package(filename, map_location)


def _load_from_unknown(filename: str, map_location: Any = None) -> Any:
    raise UnsafeCheckpointError(
        f'{filename}: checkpoints of this scheme cannot be loaded safely; download the file and give its path'
    )


def _loaders() -> dict[str, Callable]:
    return {
        '': load_from_local,
        'http': load_from_http,
        'https': load_from_http,
        'torchvision': load_from_torchvision,
        'modelzoo': load_from_torchvision,
        'open-mmlab': load_from_openmmlab,
        'openmmlab': load_from_openmmlab,
        'mmcls': load_from_mmcls,
        'package': _load_from_package,
        r'(\S+\:)?s3': load_from_ceph,
        r'(\S+\:)?petrel': load_from_ceph,
    }
