"""Composition of invertible layers: certificates, error bounds, failures."""

import pytest
import torch
from helpers.block_cases import BLOCKS, Bounded, net, settled

from mmseg_invattn.layers import (
    ActNorm2d,
    AdditiveCoupling,
    CertifiedAttention2d,
    InvConv1x1,
    InvConvResidual,
    InvertibleSequential,
    NotConvergedError,
    PaperAttention2d,
    Split,
    Squeeze,
)
from mmseg_invattn.layers.contract import outputs
from mmseg_invattn.ops import max_token_norm


def test_errors_compose():
    """The rule itself: y off by e in the norm, x off by at most what the sequence says, and the bound is attained."""
    torch.manual_seed(5)
    x = torch.randn(4, 6, 4, 4, dtype=torch.float64)
    sequence = settled(
        InvertibleSequential(
            ActNorm2d(6),
            InvConvResidual(6),
            AdditiveCoupling(6, Bounded(3, 0.7), lipschitz=0.7),
            Squeeze(2),
            InvConv1x1(24),
            CertifiedAttention2d(24, num_heads=2),
            AdditiveCoupling(24, Bounded(12, 1.3), True, 1.3),
        ).double(),
        x,
    )
    with torch.no_grad():
        y = sequence(x)
        x_hat, info = sequence.inverse(y, tol=1e-13)
        assert (max_token_norm(x_hat - x) <= info.error_bound).all() and info.error_bound.max() < 1e-8
        dy = torch.randn_like(y) * 1e-3
        e = max_token_norm(dy)
        moved, other = sequence.inverse(y + dy, tol=1e-13)
        backward = sequence.bi_lipschitz_bound()[1]
        assert (max_token_norm(moved - x) <= backward * e + other.error_bound).all()
        assert (max_token_norm(moved - x) > 0.01 * e).all()
        # the bound is the recursion e_(k-1) = Lip(f_k^-1) e_k + b_k of the layers' own reports
        trunk, error = y, torch.zeros(len(y), dtype=torch.float64)
        spread = torch.tensor([max(layer.bi_lipschitz_bound()[1], 1.0) for layer in sequence]).double()
        for k in reversed(range(len(sequence))):
            trunk, own = sequence[k].inverse(trunk, tol=1e-13 / (len(sequence) * float(spread[:k].prod())))
            error = sequence[k].bi_lipschitz_bound()[1] * error + own.error_bound
        torch.testing.assert_close(info.error_bound, error)
        torch.testing.assert_close(trunk, x_hat)


def test_error_of_a_residual_layer_behind_another():
    """(e + |r| + rounding) / (1 - L), with the e that the layer behind left on purpose."""
    torch.manual_seed(6)
    first, second = InvConvResidual(4, contraction=0.5).double(), InvConvResidual(4, contraction=0.8).double()
    sequence = InvertibleSequential(first, second)
    with torch.no_grad():
        x = torch.randn(3, 4, 5, 5, dtype=torch.float64)
        y = sequence(x)
        x_hat, info = sequence.inverse(y, tol=1e-3)
        between, own = second.inverse(y, tol=1e-3 / 2 * (1 - first.lipschitz_bound()))
        _, last = first.inverse(between, tol=1e-3 / 2, error=own.error_bound)
    assert own.error_bound.min() > 1e-9  # the tolerance was coarse
    want = (own.error_bound + last.residual + last.rounding) / (1 - last.lipschitz)
    torch.testing.assert_close(info.error_bound, want, rtol=1e-9, atol=0)
    assert (max_token_norm(x_hat - x) <= info.error_bound).all()
    assert (info.error_bound <= 1e-3 * 3 * max_token_norm(y)).all()


def test_bound_behind_an_unknown_sub_network_is_not_known():
    torch.manual_seed(7)
    free = AdditiveCoupling(4, net(4))
    x = torch.randn(2, 4, 3, 3)
    _, alone = free.inverse(free(x))
    assert alone.error_bound.isfinite().all()
    _, squeezed = InvertibleSequential(free, Split(4)).inverse(InvertibleSequential(free, Split(4))(x))
    assert squeezed.error_bound.isfinite().all()  # a split leaves no error
    sequence = InvertibleSequential(free, InvConv1x1(4))
    x_hat, info = sequence.inverse(sequence(x))
    assert info.error_bound.isnan().all() and info.converged.all() and info.residual.max() < 1e-5
    torch.testing.assert_close(x_hat, x)


@pytest.mark.parametrize('last', ['squeeze', 'split', 'conv1x1', 'actnorm'])
def test_rounding_of_what_a_sequence_stores_counts(last):
    """y in bfloat16 is off by the cast, which a last layer that is exact in itself does not know of."""
    torch.manual_seed(8)
    x = torch.randn(2, 4, 4, 4).bfloat16()
    sequence = settled(
        InvertibleSequential(InvConvResidual(4, contraction=0.5), InvConv1x1(4), BLOCKS[last](4)), x.float()
    )
    with torch.no_grad():
        y = sequence(x)
        assert all(part.dtype == torch.bfloat16 for part in outputs(y))
        x_hat, info = sequence.inverse(y)
    error = max_token_norm(x_hat - x.float())
    assert (error <= info.error_bound).all() and error.min() > 1e-4 and info.error_bound.max() < 1


def test_sequence_that_does_not_converge_says_where():
    torch.manual_seed(8)
    sequence = InvertibleSequential(Squeeze(), InvConvResidual(8, contraction=0.99), InvConv1x1(8)).double()
    with torch.no_grad():
        sequence[1].convs[0].weight.mul_(10)
        sequence[1].convs[2].weight.mul_(10)
        y = sequence(torch.randn(2, 2, 6, 6, dtype=torch.float64))
    with pytest.raises(NotConvergedError, match=r'in layers \[1\] within max_iter=2') as error:
        sequence.inverse(y, tol=1e-12, max_iter=2)
    x, info = sequence.inverse(y, tol=1e-12, max_iter=2, strict=False)
    assert torch.equal(error.value.x, x) and not info.converged.any() and x.shape == (2, 2, 6, 6)
    exact, _ = sequence.inverse(y, tol=1e-13)
    assert (max_token_norm(x - exact) <= info.error_bound).all()


def test_composed_certificates():
    torch.manual_seed(9)
    a, b = InvConvResidual(4, contraction=0.5), InvConvResidual(4, contraction=0.9)
    la, lb = a.lipschitz_bound(), b.lipschitz_bound()
    sequence = InvertibleSequential(a, b)
    assert sequence.lipschitz_bound() == max(la, lb)  # of the branches: grouped heads mix, so no Lip(f - id)
    assert sequence.bi_lipschitz_bound() == pytest.approx(((1 + la) * (1 + lb), 1 / (1 - la) / (1 - lb)))
    # an explicit layer has no branch; form paper no certificate
    assert InvertibleSequential(a, Squeeze()).lipschitz_bound() == la and Squeeze().lipschitz_bound() == 0.0
    assert InvertibleSequential(Squeeze(), InvertibleSequential(PaperAttention2d(4)), a).lipschitz_bound() is None
    assert InvertibleSequential(InvertibleSequential(a), b).bi_lipschitz_bound() == sequence.bi_lipschitz_bound()
