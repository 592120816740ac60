"""Every layer under ``torch.func``, in forward mode, with replaced parameters and with a gradient penalty."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vmap

from mmseg_invattn.layers import (
    FORMS,
    ActNorm2d,
    AdditiveCoupling,
    AffineCoupling,
    CertifiedAttention2d,
    GridCoupling,
    InvChannelAttention,
    InvConv1x1,
    InvConvResidual,
    InvertibleSequential,
    InvRelativeAttention2d,
    MemoryFree,
    OrthogonalConv1x1,
    Split,
)
from mmseg_invattn.layers.attention.modes import MODES
from mmseg_invattn.ops import twice_differentiable


def stack() -> InvertibleSequential:
    return InvertibleSequential(ActNorm2d(4), InvConvResidual(4), CertifiedAttention2d(4), OrthogonalConv1x1(4))


LAYERS = {
    **{f'{form}-{mode}': lambda form=form, mode=mode: FORMS[form](4, mode=mode) for form in FORMS for mode in MODES},
    **{f'{form}-position': lambda form=form: FORMS[form](4, position='learned') for form in FORMS},
    'window': lambda: CertifiedAttention2d(4, neighbourhood='window', window_size=2, num_heads=2),
    'criss_cross': lambda: CertifiedAttention2d(4, neighbourhood='criss_cross'),
    'channel': lambda: InvChannelAttention(4),
    'convolutions': lambda: InvConvResidual(4),
    'relative': lambda: InvRelativeAttention2d(4, 2),
    'actnorm': lambda: ActNorm2d(4),
    'orthogonal': lambda: OrthogonalConv1x1(4),
    'lu': lambda: InvConv1x1(4),
    'split': lambda: Split(4),
    'additive': lambda: AdditiveCoupling(4, nn.Conv2d(2, 2, 1)),
    'affine': lambda: AffineCoupling(4, nn.Conv2d(2, 4, 1)),
    'grid': lambda: GridCoupling(4, nn.Conv2d(2, 2, 1)),
    'sequence': stack,
    'memory_free': lambda: MemoryFree(stack()),
}


def build(name: str) -> tuple[nn.Module, Tensor]:
    """A layer after its start, its parameters moved, and an input; float64."""
    torch.manual_seed(0)
    layer, x = LAYERS[name]().double(), torch.randn(2, 4, 3, 2, dtype=torch.float64)
    with torch.no_grad():
        layer.train()(x)
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return layer.eval(), x


def flat(y: Tensor | tuple[Tensor, ...]) -> Tensor:
    return y.flatten() if isinstance(y, Tensor) else torch.cat([part.flatten() for part in y])


def plain(layer: nn.Module) -> nn.Module:
    return layer.module if isinstance(layer, MemoryFree) else layer


@pytest.mark.parametrize('name', LAYERS)
def test_transforms(name):
    layer, x = build(name)
    with twice_differentiable():
        jacobian = torch.autograd.functional.jacobian(lambda x: flat(plain(layer)(x)), x)
    y, v = flat(layer(x)).detach(), torch.randn_like(x)

    def apply(x: Tensor) -> Tensor:
        return flat(layer(x))

    close = dict(rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(jacrev(apply)(x), jacobian, **close)
    torch.testing.assert_close(jacfwd(apply)(x), jacobian, **close)
    torch.testing.assert_close(jvp(apply, (x,), (v,))[1], torch.tensordot(jacobian, v, 4), **close)
    torch.testing.assert_close(grad(lambda x: apply(x).square().sum())(x), torch.tensordot(2 * y, jacobian, 1), **close)
    torch.testing.assert_close(vmap(apply)(x[:, None]), torch.stack([apply(x[i : i + 1]) for i in range(2)]), **close)


@pytest.mark.parametrize('name', [name for name in LAYERS if name != 'split'])
def test_replaced_parameters(name):
    layer, x = build(name)
    replaced = {key: p.detach() + 0.1 * torch.randn_like(p) for key, p in layer.named_parameters()}
    before = flat(layer(x)).detach()
    got = grad(lambda parameters: flat(functional_call(layer, parameters, (x,))).square().sum())(replaced)
    assert torch.equal(flat(layer(x)), before)  # nothing of the call is left behind
    layer.load_state_dict(replaced, strict=False)
    y = flat(plain(layer)(x))
    assert not torch.equal(y, before)
    want = torch.autograd.grad(y.square().sum(), list(layer.parameters()), allow_unused=True, materialize_grads=True)
    for (key, value), reference in zip(got.items(), want, strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-8, atol=1e-9, msg=key)


@pytest.mark.parametrize('name', LAYERS)
def test_gradient_penalty_works_or_says_what_to_do(name):
    """``create_graph=True`` on a plain block: the right second derivative, or an error that names the remedy."""
    layer, x = build(name)
    x = x.requires_grad_()

    def penalty() -> Tensor:
        (gradient,) = torch.autograd.grad(flat(layer(x)).square().sum(), x, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), x)[0]

    want = None
    if not isinstance(layer, MemoryFree):
        with twice_differentiable():
            want = penalty()
    try:
        got = penalty()
    except RuntimeError as error:
        assert 'twice_differentiable()' in str(error) or 'use the plain module' in str(error)
    else:
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)
