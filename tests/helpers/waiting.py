"""Raises an error if the host waits for the device: on CUDA torch reports it, elsewhere the operators do.

The meta device has no values, so it refuses to be asked for one, and its tensors do not mix with those of the CPU: what
runs there runs on any device without waiting for it, as far as operators have meta kernels. What is inside of the
project's own operators the CPU shows.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from unittest import mock

import torch
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
# a number on the host, a shape that hangs on values, or a check of a factorisation
WAITING = {
    aten._local_scalar_dense,
    aten.equal,
    aten.nonzero,
    aten.masked_select,
    aten._unique2,
    aten.repeat_interleave,
    aten._linalg_check_errors,
    aten.linalg_matrix_exp,
}
INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
COPIES = {aten._to_copy, aten.copy_}
OWN = 'mmseg_invattn'


class WaitsForDeviceError(RuntimeError):
    """An operator would have made the host wait."""


class _Watching(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.namespace == OWN and args[0].device.type == 'cpu':
            with self:  # torch would run it unwatched
                return OPDEFS[func._schema.name]._init_fn(*args, **kwargs)
        with self:  # in there, what consists of others comes whole
            result = func.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
        result = func(*args, **kwargs)
        if _waits(func.overloadpacket, args, result):
            raise WaitsForDeviceError(f'{func} makes the host wait for the device')
        return result


def _waits(operator, args: tuple, result: object) -> bool:
    if operator in INDEXED:  # by a mask: as many numbers as it has ones
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    if operator in COPIES:
        source = args[0] if operator is aten._to_copy else args[1]
        return source.device != result.device
    if operator is aten.equal and args[0].dtype == torch.uint8:  # states of random generators, which the host has
        return False
    return operator in WAITING


@contextmanager
def no_waiting(device: str) -> Iterator[None]:
    """Inside, on ``'cuda'``, ``'cpu'`` or ``'meta'``, what would wait raises a RuntimeError."""
    if device == 'cuda':
        torch.cuda.set_sync_debug_mode('error')
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode('default')
        return
    # meta knows no autocast
    asked = mock.patch.object(torch, 'is_autocast_enabled', lambda *_: False) if device == 'meta' else nullcontext()
    with asked, _Watching():
        yield
