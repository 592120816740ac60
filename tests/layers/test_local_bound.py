"""The bound of ordinary attention around a feature map: above the true steepness, near it, and within its reach."""

from collections.abc import Iterator
from contextlib import contextmanager
from statistics import mean

import pytest
import torch
from torch import Tensor

from mmseg_invattn.layers import CouplingAttention2d, InvertibleSequential, MemoryFree
from mmseg_invattn.layers.attention.local_bound import attention_moments, local_bound
from mmseg_invattn.layers.attention.modes import MODES
from mmseg_invattn.layers.attention.ordinary_branch import OrdinaryBranch
from mmseg_invattn.layers.exact_norms import jacobian_norm, token_norm
from mmseg_invattn.ops import max_token_norm

PARTS = [
    dict(),
    dict(num_heads=2),
    dict(key_pooling=2),
    dict(key_pooling=(1, 2)),
    dict(position='learned', position_size=4),
    dict(neighbourhood='criss_cross'),
    dict(neighbourhood='window', window_size=2, window_shift=1),
]
SIZE = (3, 4)


def steep_branch(mode: str, gain: float = 4.0, **parts) -> OrdinaryBranch:
    """One branch of a coupling, with scores of about ``gain`` squared times their usual size."""
    branch = CouplingAttention2d(8, reduction=1, mode=mode, **parts).double().first
    with torch.no_grad():
        parameters = sorted(branch.named_parameters(), key=lambda pair: not pair[0].startswith('bias'))
        for _, parameter in parameters:  # the bias of the output first, whatever the order in which they are held
            parameter.add_(0.3 * torch.randn_like(parameter))
        for name, parameter in branch.attention.mode.named_parameters():
            parameter.mul_(gain if 'join' not in name else 1.0)
    return branch


def features(scale: float = 1.0) -> Tensor:
    return scale * torch.randn(1, 4, *SIZE, dtype=torch.float64)


@contextmanager
def only_the_ball() -> Iterator[None]:
    """As if there were no local bound."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            'mmseg_invattn.layers.attention.ordinary_branch.local_bound',
            lambda *_: torch.full((1, 1, 1), torch.inf, dtype=torch.float64),
        )
        yield


def difference(branch: OrdinaryBranch, x: Tensor, distance: Tensor, within: Tensor | float = 0.0) -> Tensor:
    return branch.difference(x, distance, within, branch.weights())


def ball_bound(branch: OrdinaryBranch, x: Tensor, tiny: Tensor) -> float:
    with only_the_ball():
        return float(difference(branch, x, tiny) / tiny)


@pytest.mark.parametrize('parts', PARTS, ids=str)
@pytest.mark.parametrize('mode', MODES)
def test_bound_is_above_the_jacobian(mode, parts):
    torch.manual_seed(0)
    tiny = torch.tensor([1e-9])
    for scale in (0.1, 1.0, 3.0):
        branch, x = steep_branch(mode, **parts), features(scale)
        true, bound = jacobian_norm(branch, x), float(difference(branch, x, tiny) / tiny)
        assert 0 < true <= bound * (1 + 1e-6)
        assert bound <= ball_bound(branch, x, tiny) * (1 + 1e-9)


@pytest.mark.parametrize('mode', MODES)
def test_bound_is_near_the_jacobian_of_scores_that_training_makes_steep(mode):
    """A few times the truth, where the bound of the whole ball is off by far more."""
    tiny, near, far = torch.tensor([1e-9]), [], []
    for seed in range(5):
        torch.manual_seed(seed)
        branch = steep_branch(mode, gain=1.5 if mode in ('dot_product', 'concatenation') else 3.0)
        # a Gaussian has no weights that make it steep
        x = features(0.6 * 2**0.5 if mode == 'gaussian' else 0.6)
        true = jacobian_norm(branch, x)
        near.append(float(difference(branch, x, tiny) / tiny) / true)
        far.append(ball_bound(branch, x, tiny) / true)
    assert mean(near) < (3.5 if branch.attention.mode.softmax else 7.0)
    # queries of a concatenation move its scores alike, which brings the bound of the ball near as well
    assert mean(near) < mean(far) / {'embedded_gaussian': 5, 'l2': 5, 'concatenation': 1.5}.get(mode, 2)


@pytest.mark.parametrize('distance', [1e-4, 1e-2, 0.3])
@pytest.mark.parametrize('mode', MODES)
def test_outputs_differ_by_no_more_anywhere_within_the_reach(mode, distance):
    """From random points of the reach along the steepest direction there, and back to the centre."""
    torch.manual_seed(2)
    branch, x = steep_branch(mode, gain=2.0), features()
    within = torch.tensor([2 * distance])
    allowed = float(difference(branch, x, torch.tensor([distance]), within))
    largest = 0.0
    for _ in range(5):
        start = torch.randn_like(x)
        start = x + 2 * distance * start / start.norm(dim=1, keepdim=True)
        pixel, direction = int(torch.randint(x[0, 0].numel(), ())), torch.randn(4, dtype=x.dtype)
        for _ in range(5):  # the step that moves the output of one pixel along the direction the most
            probe = start.clone().requires_grad_()
            (branch(probe).flatten(2)[0, :, pixel] @ direction).backward()
            step = distance * probe.grad / probe.grad.norm(dim=1, keepdim=True).clamp(min=1e-300)
            with torch.no_grad():
                moved = branch(start + step) - branch(start)
            direction = moved.flatten(2)[0, :, pixel]
            largest = max(largest, float(max_token_norm(moved)))
    assert 0.02 * allowed < largest <= allowed


def attention_of(mode: str, tokens: list[list[float]], reach: float = 0.0) -> tuple[float, float]:
    """(True, bounded) steepness of the first pixel's m with v = x, at the end of the reach where that is not 0.

    The first token moves towards 0 by the reach.
    """
    branch = CouplingAttention2d(4, reduction=1, mode=mode, bias=False).double().first
    with torch.no_grad():
        branch.value.weight.copy_(torch.eye(2))
        if mode == 'concatenation':  # t_ij = 10 x_i2 + x_j1 / 10
            for linear in (branch.attention.mode.query, branch.attention.mode.key):
                linear.weight.copy_(torch.eye(2))
            branch.attention.mode.join.weight.copy_(torch.tensor([0.0, 10.0, 0.1, 0.0]))
    x_B1NC, size, one = torch.tensor(tokens, dtype=torch.float64)[None, None], (1, len(tokens)), torch.ones(1)
    scores, (value, _) = branch.attention(), branch.value()
    identity = torch.eye(value.shape[1], dtype=value.dtype)[None]
    moments = attention_moments(branch.attention, scores, x_B1NC, size, None, value, identity)
    bound = local_bound(moments, one, 10 * one[None], reach * one[None])[0, 0, 0]
    moved = x_B1NC.clone()
    moved[..., 0, :] *= 1 - reach / max(float(moved[..., 0, :].norm()), 1e-9)

    def first(x_1CHW: Tensor) -> Tensor:
        tokens = x_1CHW.flatten(2).mT[:, None]
        return branch.attention.mixer(scores, tokens, size)(tokens).mT.reshape(x_1CHW.shape)

    x_1CHW = moved[:, 0].mT.reshape(1, 2, 1, -1)
    jacobian = torch.autograd.functional.jacobian(lambda x: first(x)[..., 0], x_1CHW)  # (1, 2, 1, 1, 2, 1, N)
    return token_norm(jacobian.reshape(1, 2, 2, -1).permute(0, 1, 3, 2)), float(bound)


def test_spread_keys_meet_the_bound():
    """A pixel at 0 between keys on a line: all that it can do is turn towards one side."""
    true, bound = attention_of('gaussian', [[0.0, 0.0], [5.0, 0.0], [-5.0, 0.0]])
    assert 0.95 * bound < true <= bound * (1 + 1e-9)


def test_kernels_that_see_a_shift_of_the_scores():
    """All keys pull alike, yet a shift of all scores moves the weights: f'/f differs from key to key."""
    true, bound = attention_of('concatenation', [[10.0, 0.0], [-10.0, 0.0]] * 3)
    assert 10 < true <= bound


def test_weights_that_spread_out_within_the_reach():
    """At the centre one key has nearly all the weight, so little varies; at the end of the reach much more does."""
    tokens = [[0.1, 0.0], [20.0, 0.0], [-20.0, 0.0]]
    true, bound = attention_of('gaussian', tokens, reach=0.05)
    assert 1.5 * attention_of('gaussian', tokens)[1] < true <= bound


def test_a_long_reach_leaves_the_bound_of_the_ball():
    torch.manual_seed(3)
    branch, x = steep_branch('embedded_gaussian'), features()
    for distance in (1e2, 1e30, float('inf')):
        found = difference(branch, x, torch.tensor([distance]))
        assert not found.isnan() and (found > 0).all()
    assert difference(branch, x, torch.tensor([0.0])) == 0
    assert difference(branch, 0 * x, torch.tensor([1e-3])).isfinite()


@pytest.mark.parametrize('mode', MODES)
def test_error_bound_of_a_steep_coupling_is_of_use(mode):
    torch.manual_seed(4)
    block = CouplingAttention2d(12, reduction=1, mode=mode)
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            if '.mode.' in name and 'join' not in name:
                parameter.mul_(3)
    x = 0.5 * torch.randn(4, 12, 8, 8)
    y = block(x).detach()
    x_hat, info = block.inverse(y)
    error = max_token_norm(x_hat - x)
    assert (error <= info.error_bound).all()
    assert (info.error_bound < 500 * error).all(), info.error_bound / error
    moved = 1e-3 * torch.ones(4, dtype=torch.float64)
    tight = block.inverse_error(x, moved)
    with only_the_ball():
        loose = block.inverse_error(x, moved)
    assert (tight < loose).all(), (tight, loose)  # both end at 2 R |W|, as far apart as outputs can be


def test_backward_without_activations_asks_for_no_bound(monkeypatch):
    torch.manual_seed(5)
    block = CouplingAttention2d(8)
    free, x = MemoryFree(InvertibleSequential(block, block)), torch.randn(2, 8, 4, 4)
    monkeypatch.setattr(OrdinaryBranch, 'difference', None)
    grads = []
    for module in (free, free.module):
        block.zero_grad()
        module(x).square().sum().backward()
        grads.append([parameter.grad.clone() for parameter in block.parameters() if parameter.grad is not None])
    assert grads[0] and all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(*grads, strict=True))
