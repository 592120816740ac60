"""``check_layer`` says what a layer does not keep."""

import pytest
import torch
from torch import Tensor, nn

from mmseg_invattn.layers import CertifiedAttention2d, ExplicitInverse, NonLocalAttention2d
from mmseg_invattn.layers.explicit import Accuracy
from mmseg_invattn.layers.testing import check_layer
from mmseg_invattn.ops import max_token_norm, unit_roundoff

X = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))


class Scale(ExplicitInverse):
    """``y = s x``, one s for all numbers."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5))

    def weights(self) -> Tensor:
        return self.scale

    def transform(self, x, weights):
        return x * weights

    def solve(self, y, weights):
        return y / weights

    def log_det(self, x, weights):
        return (weights.abs().log() * x[0].numel()).expand(len(x))

    def accuracy(self, y, x, stored, weights):
        residual = max_token_norm(y[0].double() - x.double() * weights.double())
        rounding = 2 * unit_roundoff(x.dtype) * max_token_norm(y[0].double()) + max_token_norm(stored[0])
        return Accuracy(residual, rounding, (residual + rounding) / weights.double().abs())

    def bi_lipschitz_bound(self):
        return float(self.scale.abs()), 1 / float(self.scale.abs())


def test_a_layer_that_keeps_everything():
    check_layer(Scale(), X)


class WrongInverse(Scale):
    def solve(self, y, weights):
        return y / weights * 1.001

    def accuracy(self, y, x, stored, weights):
        return Scale.accuracy(self, y, x / 1.001, stored, weights)


class WrongBound(Scale):
    def bi_lipschitz_bound(self):
        return 1.4, 1 / 1.5


class NoContraction(Scale):
    def lipschitz_bound(self, n=None):
        return 1.0


class WrongDeterminant(Scale):
    def log_det(self, x, weights):
        return Scale.log_det(self, x, weights) / 2


class Unused(Scale):
    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.ones(()))


class Moody(Scale):
    def transform(self, x, weights):
        return x * weights * (1 if self.training else 1 + 1e-9)


@pytest.mark.parametrize(
    'layer, said',
    [
        (WrongInverse, 'the error of the inverse is within its bound'),
        (WrongBound, r'bi_lipschitz_bound\(\) bounds the map'),
        (NoContraction, r'lipschitz_bound\(\) is at least 0 and less than 1\ngot 1.0'),
        (WrongDeterminant, 'log_abs_det is not that of the exact Jacobian'),
        (Unused, 'a gradient reaches unused\ngot None'),
        (Moody, 'the same map in train and eval mode'),
    ],
)
def test_what_does_not_hold_is_named(layer, said):
    with pytest.raises(AssertionError, match=said):
        check_layer(layer(), X)


def test_the_layer_itself_stays_as_it_is():
    layer = Scale()
    check_layer(layer, X)
    assert layer.scale.dtype == torch.float32 and layer.scale.grad is None


def test_what_it_takes():
    with pytest.raises(TypeError, match='takes an InvertibleModule, got NonLocalAttention2d'):
        check_layer(NonLocalAttention2d(4), X)
    with pytest.raises(ValueError, match=r'samples of 65536 numbers, shape \(64, 32, 32\).*at most 1024'):
        check_layer(CertifiedAttention2d(64), torch.randn(1, 64, 32, 32))
