"""Converts checkpoints to tensors and plain values only, so that ``torch.load(weights_only=True)`` accepts them.

MMEngine puts its message hub into every checkpoint: ``HistoryBuffer`` objects with numpy arrays, which only full
unpickling can restore. Here they are saved as dicts of tensors, and become buffers again when they are loaded.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

_AS_IS = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    torch.Tensor,
    torch.nn.Parameter,
    torch.Size,
    torch.dtype,
    torch.device,
)
_BUFFER = '__history_buffer__'


def to_plain(value: Any, path: str) -> Any:
    """Rebuild a value from tensors, plain scalars, strings, dicts, lists and tuples.

    Args:
        value: Any content of a checkpoint. Numpy scalars become Python scalars, arrays become tensors.
        path: Place of the value in the checkpoint, for the error message.

    Returns:
        The plain value. Dicts keep their order; subclasses of dict, list and tuple become plain ones.

    Raises:
        TypeError: If something in it has no plain form.
    """
    if type(value) in _AS_IS:
        return value
    if isinstance(value, HistoryBuffer):
        log, count = value.data
        return {
            _BUFFER: True,
            'max_length': int(value.max_length),
            'log': torch.as_tensor(log),
            'count': torch.as_tensor(count),
        }
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.as_tensor(value)
    if isinstance(value, dict):
        items = [(to_plain(key, f'{path} (key)'), to_plain(item, f'{path}[{key!r}]')) for key, item in value.items()]
        plain = OrderedDict(items) if isinstance(value, OrderedDict) else dict(items)
        if hasattr(value, '_metadata'):  # the version numbers of a state_dict
            plain._metadata = value._metadata
        return plain
    if isinstance(value, (list, tuple)):
        items = [to_plain(item, f'{path}[{i}]') for i, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    for base in (torch.Tensor, int, float, str, bytes):
        if isinstance(value, base):
            return value if base is torch.Tensor else base(value)
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(
        f'{path} is a {type(value).__module__}.{type(value).__qualname__}: a checkpoint may hold only '
        'tensors, plain scalars, strings, dicts, lists and tuples, so that it loads with '
        'weights_only=True; convert it in the hook that puts it into the checkpoint'
    )


def plain_message_hub(state: dict) -> tuple[dict, list[str]]:
    """Make the state of MMEngine's message hub plain.

    Hooks may put anything into its runtime information; values without a plain form are left out.

    Args:
        state: ``MessageHub.state_dict()``.

    Returns:
        The plain state and the names of what was left out.
    """
    info, left_out = {}, []
    for key, value in state['runtime_info'].items():
        try:
            info[key] = to_plain(value, f"message_hub['runtime_info'][{key!r}]")
        except TypeError:
            left_out.append(key)
    resumed = {key: value for key, value in state['resumed_keys'].items() if key not in left_out}
    return dict(
        log_scalars=to_plain(state['log_scalars'], "message_hub['log_scalars']"),
        runtime_info=info,
        resumed_keys=resumed,
    ), left_out


def restore_message_hub(state: dict) -> dict:
    """Undo :func:`plain_message_hub`; values that are not in the plain form stay as they are.

    Args:
        state: The ``message_hub`` of a checkpoint.

    Returns:
        A state for ``MessageHub.load_state_dict``.
    """
    scalars = OrderedDict()
    for key, value in state['log_scalars'].items():
        if isinstance(value, dict) and value.get(_BUFFER):
            value = HistoryBuffer(value['log'].cpu().numpy(), value['count'].cpu().numpy(), value['max_length'])
        scalars[key] = value
    return dict(state, log_scalars=scalars)
