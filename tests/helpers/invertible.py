"""The one check that every invertible layer goes through."""

import copy
import io

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmseg_invattn.layers import (
    CouplingAttention2d,
    InverseInfo,
    InvertibleModule,
    InvertibleSequential,
    MemoryFree,
    NonLocalAttention2d,
    PaperAttention2d,
)
from mmseg_invattn.ops import max_token_norm, twice_differentiable

# Relative tolerance asked of the solver in each dtype.
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}


def jacobian_norm(function, x_1CHW: Tensor, groups: int = 1) -> float:
    """Exact Lipschitz constant of ``function`` at x in the norm inf2, from the autograd Jacobian.

    ``max_i max_{|dx_j| <= 1} |sum_j J_ij dx_j|``: not a matrix norm that a library computes. The alternating ascent
    over (u, dx) gives a lower bound that a worst dx attains; restarts from every singular direction make it tight.
    """
    channels = x_1CHW.shape[1] // groups
    with sdpa_kernel(SDPBackend.MATH):
        jacobian = torch.autograd.functional.jacobian(function, x_1CHW, vectorize=True)
    n = x_1CHW.shape[2] * x_1CHW.shape[3]
    # (g, c, n) x (g, c, n) -> tokens t = (g, n)
    j_tcsd = jacobian.reshape(groups, channels, n, groups, channels, n).permute(0, 2, 1, 3, 5, 4)
    return token_norm(j_tcsd.reshape(groups * n, channels, groups * n, channels))


def token_norm(j_tcsd: Tensor) -> float:
    """Operator norm in inf2 of a matrix from tokens s of size d to tokens t of size c, by alternating ascent."""
    u_tkc = torch.eye(j_tcsd.shape[1], dtype=j_tcsd.dtype).expand(len(j_tcsd), -1, -1)
    u_tkc = torch.cat([u_tkc, torch.linalg.svd(j_tcsd.flatten(2), full_matrices=False)[0].mT], 1)
    for _ in range(50):
        # For fixed u the best dx_s is J_ts^T u / |J_ts^T u|; then the best u is the direction of J dx.
        back_tksd = torch.einsum('tkc,tcsd->tksd', u_tkc, j_tcsd)
        dx_tksd = back_tksd / back_tksd.norm(dim=-1, keepdim=True).clamp(min=1e-300)
        out_tkc = torch.einsum('tcsd,tksd->tkc', j_tcsd, dx_tksd)
        u_tkc = out_tkc / out_tkc.norm(dim=-1, keepdim=True).clamp(min=1e-300)
    return float(out_tkc.norm(dim=-1).max())


def parts(y: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """(trunk, further outputs...) of what a layer returned."""
    return (y,) if isinstance(y, Tensor) else y


def flat(y: Tensor | tuple[Tensor, ...]) -> Tensor:
    """All outputs of a layer side by side, shape (B, D)."""
    return torch.cat([part.flatten(1) for part in parts(y)], 1)


def twice(layer: InvertibleModule) -> InvertibleModule:
    """The layer where a second derivative is wanted, which a memory-free one refuses."""
    return layer.module if isinstance(layer, MemoryFree) else layer


def token_major(x: Tensor, start: int = 0) -> Tensor:
    """The positions in ``flat(x)``, pixel by pixel: shape (H * W, C)."""
    return start + torch.arange(x[0].numel()).reshape(x.shape[1], -1).T


def check_inverse(layer: InvertibleModule, x: Tensor) -> None:
    """The inverse converges and the true error is within the reported bound.

    Behind a layer whose inverse has no Lipschitz bound the bound is not known, and says so.
    """
    with torch.no_grad():
        y = layer(x)
    x_hat, info = layer.inverse(y, tol=TOLERANCE[x.dtype])
    assert x_hat.dtype == x.dtype and x_hat.shape == x.shape
    assert info.converged.all()
    assert all(field.shape == (len(x),) for name, field in info._asdict().items() if name != 'precision')
    error = layer.error_norm(x_hat - x)
    if info.error_bound.isnan().all():
        assert layer.bi_lipschitz_bound()[1] == float('inf')
        size = torch.maximum(flat(y).norm(dim=1), flat(x).norm(dim=1))
        assert (error <= 1e4 * TOLERANCE[x.dtype] * size).all()
        return
    assert (error <= info.error_bound).all(), (error, info.error_bound)
    # The bound itself is small: 1 / (1 - L) times what the tolerance or the precision of the dtype allows, in a
    # sequence, and in a coupling of steep branches, amplified by that.
    size = torch.stack([max_token_norm(part) for part in (x, *parts(y))]).amax(0)
    allowed = TOLERANCE[x.dtype] * size
    if isinstance(layer, InvertibleSequential | CouplingAttention2d):
        allowed = allowed.maximum(layer.inverse_error(x, allowed))
    assert (info.error_bound <= 200 * allowed).all(), (info.error_bound, allowed)


def check_bi_lipschitz(layer: InvertibleModule, x: Tensor) -> None:
    """Both bounds against the exact Jacobian and its inverse, tokens being the pixels of each output."""
    y = parts(layer(x[:1]))
    jacobian = torch.autograd.functional.jacobian(lambda x: flat(layer(x)), x[:1], vectorize=True)[0].flatten(1)
    forward, backward = layer.bi_lipschitz_bound()
    starts = torch.tensor([0] + [part[0].numel() for part in y]).cumsum(0)
    columns, inverse = token_major(x[:1]), torch.linalg.inv(jacobian)
    rows = [token_major(part, int(start)) for part, start in zip(y, starts[:-1], strict=True)]
    for row in rows:
        assert token_norm(jacobian[row][:, :, columns]) <= forward * (1 + 1e-9)
    if len(rows) == 1:
        assert token_norm(inverse[columns][:, :, rows[0]]) <= backward * (1 + 1e-9)
    # for several outputs, whose tokens have several sizes: any direction is a lower bound
    dy = torch.randn(len(jacobian), 200, dtype=x.dtype)
    size = torch.stack([dy[row].norm(dim=1).amax(0) for row in rows]).amax(0)
    assert ((inverse @ dy)[columns].norm(dim=1).amax(0) <= backward * size * (1 + 1e-9)).all()


def check_log_abs_det(layer: InvertibleModule, x: Tensor) -> None:
    """The exact form is ``slogdet`` of the autograd Jacobian, value and gradient; estimates are of the same kind."""
    x = x.detach().requires_grad_()
    given = layer.log_abs_det(x, n_terms='exact')
    with twice_differentiable():
        reference = torch.stack(
            [
                torch.linalg.slogdet(
                    torch.autograd.functional.jacobian(
                        lambda x: flat(twice(layer)(x)), x[b : b + 1], create_graph=True, vectorize=True
                    )[0].flatten(1)
                )[1]
                for b in range(len(x))
            ]
        )
    torch.testing.assert_close(given, reference, rtol=1e-9, atol=1e-10)
    with torch.no_grad():
        y, both = layer.forward_and_log_abs_det(x, n_terms='exact')
        torch.testing.assert_close((parts(y), both), (parts(layer(x)), given.detach()), rtol=1e-12, atol=1e-12)
    wanted = [x, *layer.parameters()]
    weight = torch.arange(1.0, len(x) + 1, dtype=x.dtype)  # samples count differently

    def gradients(value: Tensor) -> tuple[Tensor, ...]:
        value = (weight * value).sum() + 0 * x.sum()  # a determinant that is constant has no graph of its own
        return torch.autograd.grad(value, wanted, allow_unused=True, materialize_grads=True)

    torch.testing.assert_close(gradients(given), gradients(reference), rtol=1e-7, atol=1e-9)
    with torch.no_grad():
        torch.testing.assert_close(layer.log_abs_det(x, n_terms='exact'), given)
    for n_terms in (3, 'roulette'):
        estimate = layer.log_abs_det(x, n_terms=n_terms, n_samples=2)
        assert estimate.shape == (len(x),) and estimate.dtype == x.dtype and estimate.isfinite().all()
        bound = layer.log_abs_det_error_bound(x, n_terms)
        assert bound is None or (bound.shape == (len(x),) and (bound >= 0).all())


def check_memory_free(layer: InvertibleModule, x: Tensor) -> None:
    """Gradients with recovered activations are those of plain backpropagation."""
    x = x.detach().requires_grad_()
    y = layer(x)
    weights = [torch.randn_like(part) for part in parts(y)]
    wanted = [x, *layer.parameters()]
    plain = torch.autograd.grad(parts(y), wanted, weights)
    other = MemoryFree(layer)(x)
    # With position logits torch takes another kernel where they need a gradient: equal up to rounding then.
    learned = any('position.' in name for name, _ in layer.named_parameters())
    for a, b in zip(parts(other), parts(y), strict=True):
        assert torch.equal(a, b) or learned and (a - b).abs().max() <= 1e-14 * b.abs().max()
    recovered = torch.autograd.grad(parts(other), wanted, weights)
    for a, b in zip(recovered, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9 * float(flat(y).detach().abs().max()))


def check_gradients(layer: nn.Module, x: Tensor) -> None:
    """Once and twice differentiable, the same in train and eval mode, and every parameter counts."""
    # Train and eval mode are the same map.
    assert torch.equal(flat(layer.train()(x)), flat(layer.eval()(x)))

    # Gradient reaches every parameter, and is right.
    layer.zero_grad()
    y = flat(layer(x))
    if y.requires_grad:
        (y * torch.randn_like(y)).sum().backward()
    for name, parameter in layer.named_parameters():
        if parameter.numel():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 0, name
    small = x[:1, :, :2, :2].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: flat(layer(x)), small)
    with twice_differentiable():
        # along random directions; of an invertible layer check_log_abs_det has all of them
        assert torch.autograd.gradgradcheck(lambda x: flat(twice(layer)(x)), small, fast_mode=True)


def numbers(inverse: tuple[Tensor, InverseInfo]) -> tuple[Tensor, ...]:
    """x and the tensors of the report."""
    x, info = inverse
    return x, *info[:-1]


def check_given_weights(layer: InvertibleModule, x: Tensor) -> None:
    """Weights that are handed in are those that the layer derives: every result is the same, bit for bit."""
    with torch.no_grad():
        weights, y = layer.weights(), layer(x)
        for a, b in zip(parts(layer(x, weights)), parts(y), strict=True):
            assert torch.equal(a, b)
        error = layer.error_norm(x) * 1e-3
        pairs = [
            (numbers(layer.inverse(y, weights=weights)), numbers(layer.inverse(y))),
            ((layer.recover_input(y, 1e-9, 1000, weights),), (layer.recover_input(y, 1e-9, 1000),)),
            ((layer.inverse_error(x, error, weights=weights),), (layer.inverse_error(x, error),)),
        ]
        for given, own in pairs:
            torch.testing.assert_close(given, own, rtol=0, atol=0, equal_nan=True)
        results = []
        for options in (dict(weights=weights), dict()):
            torch.manual_seed(0)
            results.append(layer.forward_and_log_abs_det(x, 2, **options))
        torch.testing.assert_close(*results, rtol=0, atol=0)


def check_layer(layer: nn.Module, x: Tensor) -> None:
    """Everything that holds for every invertible layer; of the ordinary attention block, that it is not one.

    Args:
        layer: in float64.
        x: float64, small (the exact Jacobian is formed), shape (B, C, H, W).
    """
    layer = layer.double()
    if isinstance(layer, NonLocalAttention2d):
        check_gradients(layer, x)
        assert not isinstance(layer, InvertibleModule) and not hasattr(layer, 'inverse')
        return
    check_inverse(layer, x)
    check_inverse(copy.deepcopy(layer).float(), x.float())

    check_gradients(layer, x)
    check_given_weights(layer, x)

    # The certificates against the exact Jacobian.
    bound = layer.lipschitz_bound()
    assert bound is None if any(isinstance(module, PaperAttention2d) for module in layer.modules()) else 0 <= bound < 1
    assert bound is None or layer.lipschitz_bound(x[0, 0].numel()) <= bound * (1 + 1e-9)
    check_bi_lipschitz(layer, x)

    check_log_abs_det(layer, x)
    check_memory_free(layer, x)

    # Save, load, invert.
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    other = copy.deepcopy(layer)
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        y = layer(x)
    assert torch.equal(layer.inverse(y)[0], other.inverse(y)[0])
