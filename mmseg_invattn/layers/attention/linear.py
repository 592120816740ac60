"""Linear maps of tokens, one for each channel group, and vectors to add."""

import torch
from torch import Tensor, nn

from ..parameters import given_out


def grouped_linear(x_BGNC: Tensor, weight_GEC: Tensor, bias_GE: Tensor | None = None) -> Tensor:
    """``y_g = W_g x_g + b_g``, shape (B, G, N, E). One group of x serves all G groups of the weight."""
    y = x_BGNC @ weight_GEC.mT
    return y if bias_GE is None else y + bias_GE[:, None]


@torch.no_grad()
def orthogonal_(*weights_GEC: Tensor) -> None:
    """Sets each matrix to a random one whose singular values are all 1.

    The start of what is divided by its norm: the typical singular value of a random matrix is well below the largest,
    that of a product of two further still, and the branch would start as much too faint.
    """
    for weight in weights_GEC:
        for matrix in weight:
            matrix.copy_(nn.init.orthogonal_(torch.empty_like(matrix, dtype=torch.float64)))


class Bias(nn.Module):
    """A learned vector that starts at 0; calling the module gives it in float32 or higher.

    Args:
        features: its size.
    """

    def __init__(self, features: int):
        super().__init__()
        self.vector = nn.Parameter(torch.zeros(features))

    def forward(self) -> Tensor:
        return given_out(self.vector)


class GroupedLinear(nn.Module):
    """Weights of :func:`grouped_linear`; calling the module gives (W, b) in float32 or higher.

    Its hooks see every use of them so.

    Args:
        in_features: C.
        out_features: E.
        groups: G.
        bias: whether b is there; it starts at 0.
    """

    def __init__(self, in_features: int, out_features: int, groups: int = 1, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(groups, out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(groups, out_features)) if bias else None
        for weight in self.weight.data:
            nn.init.xavier_uniform_(weight)

    def forward(self) -> tuple[Tensor, Tensor | None]:
        return given_out(self.weight), None if self.bias is None else given_out(self.bias)
