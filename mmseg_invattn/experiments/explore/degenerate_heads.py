"""Finds heads that training has made useless, and removes them (Cordonnier et al., the pruned variant of their
quadratic encoding with a full covariance).

A head is degenerate if it looks everywhere, which means that its largest inverse variance is below 1e-5 / pixel^2, or
along a line, which means that one inverse variance is more than 1000 times the other. This rule, and the short training
of the other heads, are those of the authors' code, https://github.com/epfml/attention-cnn.

Shape suffixes: G heads; the last 2 is (row, column).
"""

import torch
from torch import Tensor, nn

from ...layers import RelativeSelfAttention2d
from ...layers.convolution.encoding import QuadraticEncoding

UNIFORM, LINE = 1e-5, 1000.0


@torch.no_grad()
def degenerate_heads(encoding: QuadraticEncoding) -> Tensor:
    """Which heads look everywhere or along a line, (G,)."""
    small, large = torch.linalg.eigvalsh(encoding.precision().double()).unbind(-1)
    return (large < UNIFORM) | (large > LINE * small)


@torch.no_grad()
def without_degenerate_heads(model: nn.Module) -> tuple[dict[str, Tensor], list[int]]:
    """The weights of a model without its degenerate heads, and how many heads of each layer are left.

    Raises:
        ValueError: a layer has no quadratic encoding, or all of its heads are degenerate.
    """
    state, left = dict(model.state_dict()), []
    for name, module in model.named_modules():
        if not isinstance(module, RelativeSelfAttention2d):
            continue
        encoding = None if module.mixing is None else module.mixing.encoding
        if not isinstance(encoding, QuadraticEncoding):
            raise ValueError(f'{name} has no quadratic encoding, but only heads with its widths can be pruned')
        keep_G = ~degenerate_heads(encoding)
        if not keep_G.any():
            raise ValueError(f'{name}: all of its {len(keep_G)} heads are degenerate, so none would be left')
        left.append(int(keep_G.sum()))
        for key, tensor in module.state_dict().items():
            if key == 'weight':
                state[f'{name}.{key}'] = tensor[:, keep_G]
            elif key != 'bias':  # the heads follow each other along the first dimension
                state[f'{name}.{key}'] = tensor.unflatten(0, (len(keep_G), -1))[keep_G].flatten(0, 1)
    return state, left
