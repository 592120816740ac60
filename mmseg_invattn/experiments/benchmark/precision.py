"""The meaning of ``--dtypes``.

A kernel gets its inputs in that dtype. A module or a model has float32 parameters and features, as in training, and
runs under autocast to the dtype; attention that can follow autocast does so (``precision='autocast'``), like its peer.
"""

from contextlib import AbstractContextManager

import torch


def autocast(dtype: str, device: str | torch.device) -> AbstractContextManager:
    """Autocast to the dtype; disabled for float32."""
    return torch.autocast(torch.device(device).type, getattr(torch, dtype), enabled=dtype != 'float32')


def branch_precision(dtype: str) -> str:
    """The ``precision`` of a block that is compared with a peer that follows autocast."""
    return 'float32' if dtype == 'float32' else 'autocast'
