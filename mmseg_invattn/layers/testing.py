"""A check of invertible layers, for those of this package and for yours: ``check_layer(layer, x)``."""

import copy
import io
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..ops import max_token_norm, twice_differentiable
from .attention import CouplingAttention2d, PaperAttention2d
from .contract import InverseInfo, InvertibleModule, outputs
from .exact_norms import flat, token_major, token_norm
from .memory_free import MemoryFree
from .sequential import InvertibleSequential

# Relative tolerance asked of the solver in each dtype.
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
LARGEST = 1024  # numbers of a sample: its Jacobian has the square of that


def check_layer(layer: InvertibleModule, x: Tensor) -> None:
    """Everything that :class:`~mmseg_invattn.layers.InvertibleModule` promises, on a copy of the layer in float64.

    The inverse converges in float32 and float64, with errors within their bounds. Gradients are those of finite
    differences, twice, and reach every parameter. Bounds and log-determinant are compared with the exact Jacobian.
    Memory-free gradients are those of plain backpropagation, and weights that were saved and loaded give the same
    inverse.

    Args:
        layer: the layer. If the first batch initialises it, let it see one before.
        x: an input, shape (B, C, H, W). It has to be small, because the exact Jacobian is formed: a few pixels.

    Raises:
        AssertionError: with the promise that does not hold.
        TypeError: the layer is no ``InvertibleModule``.
        ValueError: x is too large.
    """
    if not isinstance(layer, InvertibleModule):
        raise TypeError(f'check_layer takes an InvertibleModule, got {type(layer).__name__}: derive the layer from it')
    if x[0].numel() > LARGEST:
        raise ValueError(
            f'check_layer got samples of {x[0].numel()} numbers, shape {tuple(x.shape[1:])}; it forms the exact '
            f'Jacobian of at most {LARGEST}: take fewer channels or pixels'
        )
    layer, x = copy.deepcopy(layer).double(), x.double()
    check_inverse(layer, x)
    check_inverse(copy.deepcopy(layer).float(), x.float())
    check_gradients(layer, x)
    check_given_weights(layer, x)

    check_bound(layer, x)
    check_bi_lipschitz(layer, x)
    check_log_abs_det(layer, x)
    check_memory_free(layer, x)
    check_saved(layer, x)


def expect(holds: Any, promise: str, *seen: object) -> None:
    """Raises AssertionError, with the promise and with what was seen in its place, unless it holds."""
    if not holds:
        raise AssertionError(f'this does not hold: {promise}' + ''.join(f'\ngot {value}' for value in seen))


def twice(layer: nn.Module) -> Any:
    """The layer where a second derivative is wanted, which a memory-free one refuses."""
    return layer.module if isinstance(layer, MemoryFree) else layer


def check_inverse(layer: InvertibleModule, x: Tensor) -> None:
    """The inverse converges and the true error is within the reported bound.

    Behind a layer whose inverse has no Lipschitz bound the bound is not known, and says so.
    """
    with torch.no_grad():
        y = layer(x)
    x_hat, info = layer.inverse(y, tol=TOLERANCE[x.dtype])
    expect(x_hat.dtype == x.dtype and x_hat.shape == x.shape, 'the inverse has the dtype and shape of x', x_hat.shape)
    expect(info.converged.all(), f'the inverse converges in {x.dtype}', info)
    fields = {name: field for name, field in info._asdict().items() if name != 'precision'}
    expect(all(field.shape == (len(x),) for field in fields.values()), 'the report has one number per sample', info)
    error = layer.error_norm(x_hat - x)
    size = torch.maximum(flat(y).norm(dim=1), flat(x).norm(dim=1))
    if info.error_bound.isnan().all():
        unknown = layer.bi_lipschitz_bound()[1] == float('inf')
        expect(unknown, 'an inverse with a Lipschitz bound has an error bound (assess() of a residual layer)', info)
        expect((error <= 1e4 * TOLERANCE[x.dtype] * size).all(), 'the inverse is close to x', error)
        return
    expect((error <= info.error_bound).all(), 'the error of the inverse is within its bound', error, info.error_bound)
    # The bound itself is small: 1 / (1 - L) times what the tolerance or the precision of the dtype allows, in a
    # sequence, and in a coupling of steep branches, amplified by that.
    size = torch.stack([max_token_norm(part) for part in (x, *outputs(y))]).amax(0)
    allowed = TOLERANCE[x.dtype] * size
    if isinstance(layer, InvertibleSequential | CouplingAttention2d):
        allowed = allowed.maximum(layer.inverse_error(x, allowed))
    expect((info.error_bound <= 200 * allowed).all(), 'the error bound is small', info.error_bound, allowed)


def check_bound(layer: InvertibleModule, x: Tensor) -> None:
    """The branch is certified to be a contraction, but for form paper."""
    bound, own = layer.lipschitz_bound(), layer.lipschitz_bound(x[0, 0].numel())
    if any(isinstance(module, PaperAttention2d) for module in layer.modules()):
        expect(bound is None, 'lipschitz_bound() of form paper is None', bound)
        return
    expect(bound is not None and 0 <= bound < 1, 'lipschitz_bound() is at least 0 and less than 1', bound)
    if bound is not None and own is not None:
        expect(own <= bound * (1 + 1e-9), 'the bound for n pixels is at most that for every number', own, bound)


def check_bi_lipschitz(layer: InvertibleModule, x: Tensor) -> None:
    """Both bounds against the exact Jacobian and its inverse, tokens being the pixels of each output."""
    y = outputs(layer(x[:1]))
    rows_of = torch.autograd.functional.jacobian(lambda x: flat(layer(x)), x[:1], vectorize=True)
    jacobian: Tensor = rows_of[0].flatten(1)  # type: ignore
    forward, backward = layer.bi_lipschitz_bound()
    starts = torch.tensor([0] + [part[0].numel() for part in y]).cumsum(0)
    columns, inverse = token_major(x[:1]), torch.linalg.inv(jacobian)
    rows = [token_major(part, int(start)) for part, start in zip(y, starts[:-1], strict=True)]
    for row in rows:
        norm = token_norm(jacobian[row][:, :, columns])
        expect(norm <= forward * (1 + 1e-9), 'bi_lipschitz_bound() bounds the map', norm, forward)
    if len(rows) == 1:
        norm = token_norm(inverse[columns][:, :, rows[0]])
        expect(norm <= backward * (1 + 1e-9), 'bi_lipschitz_bound() bounds the inverse', norm, backward)
    # for several outputs, whose tokens have several sizes: any direction is a lower bound
    dy = torch.randn(len(jacobian), 200, dtype=x.dtype)
    size = torch.stack([dy[row].norm(dim=1).amax(0) for row in rows]).amax(0)
    moved = (inverse @ dy)[columns].norm(dim=1).amax(0)
    expect((moved <= backward * size * (1 + 1e-9)).all(), 'bi_lipschitz_bound() bounds the inverse', backward)


def check_log_abs_det(layer: InvertibleModule, x: Tensor) -> None:
    """The exact form is ``slogdet`` of the autograd Jacobian, value and gradient; estimates are of the same kind."""
    x = x.detach().requires_grad_()
    given = layer.log_abs_det(x, n_terms='exact')

    def outputs_of(sample: Tensor) -> Tensor:
        return flat(twice(layer)(sample))

    with twice_differentiable():
        jacobians = [
            torch.autograd.functional.jacobian(outputs_of, x[b : b + 1], create_graph=True, vectorize=True)
            for b in range(len(x))
        ]
        reference = torch.stack([torch.linalg.slogdet(matrix[0].flatten(1))[1] for matrix in jacobians])  # type: ignore
    torch.testing.assert_close(given, reference, rtol=1e-9, atol=1e-10, msg=not_exact('log_abs_det'))
    with torch.no_grad():
        y, both = layer.forward_and_log_abs_det(x, n_terms='exact')
        torch.testing.assert_close((outputs(y), both), (outputs(layer(x)), given.detach()), rtol=1e-12, atol=1e-12)
    wanted = [x, *layer.parameters()]
    weight = torch.arange(1.0, len(x) + 1, dtype=x.dtype)  # samples count differently

    def gradients(value: Tensor) -> tuple[Tensor, ...]:
        value = (weight * value).sum() + 0 * x.sum()  # a determinant that is constant has no graph of its own
        return torch.autograd.grad(value, wanted, allow_unused=True, materialize_grads=True)

    message = not_exact('the gradient of log_abs_det')
    torch.testing.assert_close(gradients(given), gradients(reference), rtol=1e-7, atol=1e-9, msg=message)
    with torch.no_grad():
        torch.testing.assert_close(layer.log_abs_det(x, n_terms='exact'), given)
    for n_terms in (3, 'roulette'):
        estimate = layer.log_abs_det(x, n_terms=n_terms, n_samples=2)
        expect(
            estimate.shape == (len(x),) and estimate.dtype == x.dtype and estimate.isfinite().all(),
            f'log_abs_det(x, n_terms={n_terms!r}) has one finite number per sample',
            estimate,
        )
        bound = layer.log_abs_det_error_bound(x, n_terms)
        expect(
            bound is None or (bound.shape == (len(x),) and (bound >= 0).all()),
            'log_abs_det_error_bound() has one number per sample, at least 0',
            bound,
        )


def not_exact(what: str) -> Callable[[str], str]:
    return lambda message: f'{what} is not that of the exact Jacobian: {message}'


def check_memory_free(layer: InvertibleModule, x: Tensor) -> None:
    """Gradients with recovered activations are those of plain backpropagation."""
    x = x.detach().requires_grad_()
    y = layer(x)
    weights = [torch.randn_like(part) for part in outputs(y)]
    wanted = [x, *layer.parameters()]
    plain = torch.autograd.grad(outputs(y), wanted, weights)
    other = MemoryFree(layer)(x)
    # With position logits torch takes another kernel where they need a gradient: equal up to rounding then.
    learned = any('position.' in name for name, _ in layer.named_parameters())
    for a, b in zip(outputs(other), outputs(y), strict=True):
        same = torch.equal(a, b) or learned and (a - b).abs().max() <= 1e-14 * b.abs().max()
        expect(same, 'MemoryFree(layer) computes what the layer computes', (a - b).abs().max())
    recovered = torch.autograd.grad(outputs(other), wanted, weights)
    atol = 1e-9 * float(flat(y).detach().abs().max())
    for a, b in zip(recovered, plain, strict=True):
        torch.testing.assert_close(
            a, b, rtol=1e-8, atol=atol, msg=lambda message: f'MemoryFree(layer) has other gradients: {message}'
        )


def check_gradients(layer: nn.Module, x: Tensor) -> None:
    """Once and twice differentiable, the same in train and eval mode, and every parameter counts."""
    same = torch.equal(flat(layer.train()(x)), flat(layer.eval()(x)))
    expect(same, 'the layer is the same map in train and eval mode')

    layer.zero_grad()
    y = flat(layer(x))
    if y.requires_grad:
        (y * torch.randn_like(y)).sum().backward()
    for name, parameter in layer.named_parameters():
        if parameter.numel():
            grad = parameter.grad
            expect(
                grad is not None and grad.isfinite().all() and grad.abs().max() > 0, f'a gradient reaches {name}', grad
            )
    x = x[:1].clone().requires_grad_()
    torch.autograd.gradcheck(lambda x: flat(layer(x)), x)
    with twice_differentiable():
        # along random directions; check_log_abs_det has all of them
        torch.autograd.gradgradcheck(lambda x: flat(twice(layer)(x)), x, fast_mode=True)


def check_given_weights(layer: InvertibleModule, x: Tensor) -> None:
    """Weights that are handed in are those that the layer derives: every result is the same, bit for bit."""

    def numbers(x: Tensor, info: InverseInfo) -> tuple[Tensor, ...]:
        return x, *info[:-1]

    with torch.no_grad():
        weights, y = layer.weights(), layer(x)
        for a, b in zip(outputs(layer(x, weights)), outputs(y), strict=True):
            expect(torch.equal(a, b), 'layer(x, layer.weights()) is layer(x)')
        error = layer.error_norm(x) * 1e-3
        pairs = [
            (numbers(*layer.inverse(y, weights=weights)), numbers(*layer.inverse(y))),
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


def check_saved(layer: InvertibleModule, x: Tensor) -> None:
    """Save, load, invert."""
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    other = copy.deepcopy(layer)
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        y = layer(x)
    same = torch.equal(layer.inverse(y)[0], other.inverse(y)[0])
    expect(same, 'saved and loaded weights give the same inverse')
