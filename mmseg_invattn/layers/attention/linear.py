"""Linear maps of tokens, one for each channel group, and learned bias vectors."""

import torch
from torch import Tensor, nn

from ..parameters import given_out


def grouped_linear(x_BGNC: Tensor, weight_GEC: Tensor, bias_GE: Tensor | None = None) -> Tensor:
    """``y_g = W_g x_g + b_g``, shape (B, G, N, E). If x has one group, all G groups of the weight use it."""
    y = x_BGNC @ weight_GEC.mT
    return y if bias_GE is None else y + bias_GE[:, None]


@torch.no_grad()
def orthogonal_(*weights_GEC: Tensor) -> None:
    """Sets each matrix to a random one whose singular values are all 1.

    This is the initialisation of matrices that are divided by their norm. A typical singular value of a random matrix
    is well below the largest, and even further below it for a product of two matrices, so that a branch with random
    matrices would start too weak.
    """
    for weight in weights_GEC:
        for matrix in weight:
            matrix.copy_(nn.init.orthogonal_(torch.empty_like(matrix, dtype=torch.float64)))


class Bias(nn.Module):
    """A learned vector that starts at 0; calling the module returns it in float32 or higher.

    Args:
        features: size of the vector.
    """

    def __init__(self, features: int):
        super().__init__()
        self.vector = nn.Parameter(torch.zeros(features))

    def forward(self) -> Tensor:
        return given_out(self.vector)


class GroupedLinear(nn.Module):
    """Weights of :func:`grouped_linear`; calling the module returns (W, b) in float32 or higher.

    The weights are only used through such calls, so module hooks see every use.

    Args:
        in_features: C.
        out_features: E.
        groups: G.
        bias: whether there is a bias b; it starts at 0.
    """

    def __init__(self, in_features: int, out_features: int, groups: int = 1, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(groups, out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(groups, out_features)) if bias else None
        for weight in self.weight.data:
            nn.init.xavier_uniform_(weight)

    def forward(self) -> tuple[Tensor, Tensor | None]:
        return given_out(self.weight), None if self.bias is None else given_out(self.bias)
