"""Safe loading of the two kinds of objects in MMEngine's own checkpoints: its log buffers, and numpy numbers.

Stand-ins take the place of these objects while a file is unpickled, and are replaced by them afterwards. MMEngine's own
list of allowed names is not safe: it has the plain ``getattr``, by which a file reaches any function, and numpy's
dtypes, with which a file could choose any memory layout.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch

NUMBERS = ('b1', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'f2', 'f4', 'f8', 'c8', 'c16')


class _Dtype:
    """A dtype of numbers: ``dtype('f8', False, True)`` and a state with the byte order."""

    def __init__(self, name: str, *options: Any):
        if name not in NUMBERS:
            raise UnpicklingError(f'GLOBAL numpy.dtype of {name!r}')
        self.value = np.dtype(name)

    def __setstate__(self, state: tuple) -> None:
        if state[1] in ('>', '<'):
            self.value = self.value.newbyteorder(state[1])


class _Array:
    """An array of numbers: ``_reconstruct(ndarray, (0,), b'b')`` and a state."""

    value = None

    def __init__(self, kind: Any, *shape: Any):
        if kind is not np.ndarray:
            raise UnpicklingError(f'GLOBAL numpy array of {kind!r}')

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, by_column, content = state
        content = content.encode('latin1') if isinstance(content, str) else content
        if not isinstance(dtype, _Dtype) or len(content) != math.prod(shape) * dtype.value.itemsize:
            raise UnpicklingError('GLOBAL numpy array of other contents')
        self.value = np.frombuffer(content, dtype.value).reshape(shape, order='F' if by_column else 'C').copy()


def _scalar(dtype: _Dtype, content: bytes) -> np.generic:
    if not isinstance(dtype, _Dtype) or len(content) != dtype.value.itemsize:
        raise UnpicklingError('GLOBAL numpy scalar of other contents')
    return np.frombuffer(content, dtype.value)[0]


class _Buffer:
    """A ``HistoryBuffer``, which refers to its statistics by ``getattr(HistoryBuffer, name)``."""

    state: dict = {}

    def __setstate__(self, state: dict) -> None:
        self.state = state


def _statistic(owner: Any, name: str) -> None:
    if owner is not _Buffer:
        raise UnpicklingError(f'GLOBAL builtins.getattr of {owner!r}')


def stock_checkpoints_allowed() -> AbstractContextManager:
    """Inside the with statement ``torch.load(weights_only=True)`` loads MMEngine's checkpoints (since torch 2.6).

    Pass the loaded content to :func:`restored`.
    """
    if torch.__version__ < '2.6':
        return nullcontext()
    named: list[Callable | tuple[Callable, str]] = [
        (_Buffer, 'mmengine.logging.history_buffer.HistoryBuffer'),
        (_statistic, 'builtins.getattr'),
        (np.ndarray, 'numpy.ndarray'),
        (_Dtype, 'numpy.dtype'),
    ]
    for module in ('numpy._core.multiarray', 'numpy.core.multiarray'):  # since numpy 2, and before
        named += [(_Array, f'{module}._reconstruct'), (_scalar, f'{module}.scalar')]
    return torch.serialization.safe_globals(named)


def restored(node: Any) -> Any:
    """Replace the stand-ins in unpickled content by arrays and buffers; dicts and lists are changed in place."""
    if isinstance(node, _Array):
        return node.value
    if isinstance(node, _Buffer):
        from mmengine.logging import HistoryBuffer

        state = restored(node.state)
        return HistoryBuffer(state['_log_history'], state['_count_history'], state['max_length'])
    if isinstance(node, _Dtype):
        return node.value
    if isinstance(node, dict | list):
        for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
            node[key] = restored(value)
    elif type(node) is tuple:
        return tuple(map(restored, node))
    return node
