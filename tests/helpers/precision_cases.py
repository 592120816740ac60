"""The same layer in both precisions, and a forward pass under autocast."""

import torch
from torch import Tensor, nn

from mmseg_invattn.layers import (
    CertifiedAttention2d,
    ConditionalAttention2d,
    CouplingAttention2d,
    InvChannelAttention,
    InvertibleModule,
)

FORMS = (CertifiedAttention2d, ConditionalAttention2d, CouplingAttention2d, InvChannelAttention)


def pair(form: type, device: str = 'cpu', **options) -> tuple[InvertibleModule, InvertibleModule, Tensor]:
    """The layer in ``'float32'`` and in ``'autocast'``, started, and features."""
    torch.manual_seed(0)
    layer, x = form(16, precision='float32', **options), torch.randn(2, 16, 7, 9)
    layer.train()(x)
    other = form(16, precision='autocast', **options)
    other.load_state_dict(layer.state_dict())
    return layer.eval().to(device), other.eval().to(device), x.to(device)


def under_autocast(layer: nn.Module, x: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    with torch.autocast(x.device.type, dtype):
        return layer(x)
