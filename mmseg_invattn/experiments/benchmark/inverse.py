"""The inverse of certified blocks against the plain fixed point ``x <- y - g(x)``.

Both are judged by the true error, the distance to the solution in float64. Errors below 4 eps are rounding and count as
4 eps. Evaluations are those of g. To know its residual, a solver has to evaluate g at the x that it returns; this
evaluation is counted for the plain iteration as well. The peers certify nothing, so the solver is compared with them
without its certificate; the additional cost of the certificate is a separate comparison.
"""

import copy
from typing import NamedTuple

import torch
from torch import Tensor

from mmseg_invattn.layers import CertifiedAttention2d, constant_weights
from mmseg_invattn.ops import max_token_norm, twice_differentiable

from .report import Line, compared
from .session import Session
from .timing import interleave, waiter

TOLERANCE = 1e-6  # relative, in float32
MOST_EVALUATIONS = 8
PAPER_ITERATIONS = 100
SHARPNESS, CONTRACTION = 4.0, 0.9
LARGE, LARGE_QUICK = ((64, 128), (128, 256)), ((6, 8), (8, 12))  # sizes of maps; the second needs a GPU


class Case(NamedTuple):
    """A block in evaluation mode, its output for a batch, and the true inverse of that output."""

    block: CertifiedAttention2d
    y: Tensor
    solution: Tensor

    def error(self, x: Tensor) -> Tensor:
        """Relative error of each sample, shape (B,)."""
        error = max_token_norm(x.double() - self.solution) / max_token_norm(self.y.double())
        return error.clamp(min=4 * torch.finfo(self.y.dtype).eps)

    def inverted(self) -> tuple[Tensor, Tensor]:
        """(error, evaluations) of the project's inverse."""
        x, info = self.block.inverse(self.y, tol=TOLERANCE, certify=False)
        return self.error(x), info.iterations


@torch.no_grad()
def solved(block: CertifiedAttention2d, x: Tensor) -> Case:
    block.eval()
    y = block(x)
    solution, _ = copy.deepcopy(block).double().inverse(y.double(), tol=1e-12, max_iter=1000)
    return Case(block, y, solution)


@torch.no_grad()
def plain(block: CertifiedAttention2d, y: Tensor, iterations: int) -> Tensor:
    """Iterates ``x <- y - g(x)`` from x = y a fixed number of times, as in the paper's code."""
    x = y
    for _ in range(iterations):
        x = y - (block(x) - x)
    return x


@torch.no_grad()
def plain_evaluations(case: Case, reach: Tensor, most: int = 1000) -> Tensor:
    """Evaluations until the plain iteration has an error of at most ``reach`` and knows its residual, (B,)."""
    x = case.y
    count = torch.zeros_like(reach, dtype=torch.long)
    for iteration in range(1, most + 1):
        count = torch.where((count == 0) & (case.error(x) <= reach), iteration, count)
        if count.all():
            return count
        x = case.y - (case.block(x) - x)
    return torch.where(count == 0, most, count)


def trained(block: CertifiedAttention2d, x: Tensor, steps: int) -> CertifiedAttention2d:
    """The block after training towards random targets."""
    target = torch.randn_like(x)
    optimiser = torch.optim.Adam(block.parameters(), lr=0.03)
    for _ in range(steps):
        optimiser.zero_grad()
        (block(x) - target).square().mean().backward()
        optimiser.step()
    return block


def hardest(mode: str, channels: int, size: tuple[int, int], steps: int) -> tuple[Case, float]:
    """The block and the input with the steepest branch, found by gradient ascent over the input and all weights.

    It maximises ``sum_j |J_ij^T u|``, where i is the pixel in the middle and u a unit vector; this is a lower bound of
    ``|J|_inf2``.

    Returns:
        The case, and the largest value of that lower bound.
    """
    block = CertifiedAttention2d(channels, reduction=1, mode=mode, contraction=CONTRACTION, sharpness=SHARPNESS)
    block = block.double()
    x = torch.randn(1, channels, *size, dtype=torch.float64, requires_grad=True)
    u = torch.randn(channels, dtype=torch.float64, requires_grad=True)
    block(x)
    block.eval()
    torch.nn.init.normal_(block.bias)  # otherwise the worst x may have g = 0, so that y is the solution
    weights = [p for name, p in block.named_parameters() if 'norm' not in name]
    optimiser = torch.optim.Adam([x, u, *weights], lr=0.03)
    steepest, best = -1.0, None
    for _ in range(steps):
        with twice_differentiable():
            g = (block(x) - x)[0, :, size[0] // 2, size[1] // 2]
            (pulled,) = torch.autograd.grad(g @ (u / u.norm()), x, create_graph=True)
            steepness = pulled.norm(dim=1).sum()
            optimiser.zero_grad()
            (-steepness).backward()
        if steepness.item() > steepest:
            steepest, best = steepness.item(), (copy.deepcopy(block), x.detach().clone())
        optimiser.step()
    return solved(best[0].float(), best[1].float()), steepest


def compare_evaluations(
    session: Session, what: str, case: Case, sizes: dict, limit: float, most: int | None = None, note: str = ''
) -> None:
    with constant_weights(case.block):  # so that neither of the two spends time on deriving weights
        error, evaluations = case.inverted()
        peer = plain_evaluations(case, error)
        # The plain iteration is timed with that many calls of the block, without computing its residual.
        calls = int(peer.max())
        times = interleave(
            lambda: case.block.inverse(case.y, tol=TOLERANCE, certify=False),
            lambda: plain(case.block, case.y, calls),
            session.rounds(7),
            waiter(session.device),
        )
    counts = evaluations.tolist(), peer.tolist()
    quantities = [compared('evaluations, worst sample', '', *counts, limit, worst=True)]
    if most is not None:
        quantities.append(
            compared('evaluations against their limit', '', counts[0], [most] * len(counts[0]), 1, worst=True)
        )
    quantities += [
        compared('relative error against the tolerance', '', error.tolist(), [TOLERANCE] * len(error), 1, worst=True),
        compared('time', 's', *times),
    ]
    session.add(Line(what, 'plain fixed point to the same error', sizes, quantities, note))


def run(session: Session) -> None:
    torch.manual_seed(0)
    channels, size, steps = (8, (4, 4), 5) if session.quick else (64, (32, 32), 200)
    sizes = dict(B=4, C=channels, N=size[0] * size[1], contraction=CONTRACTION, sharpness=SHARPNESS, tol=TOLERANCE)
    for name, training in (('random weights', 0), (f'{steps} training steps', steps)):
        block = CertifiedAttention2d(channels, contraction=CONTRACTION, sharpness=SHARPNESS).to(session.device)
        x = torch.randn(4, channels, *size).to(session.device)
        block(x)
        case = solved(trained(block, x, training), x)
        compare_evaluations(session, f'inverse, {name}', case, sizes, 1, MOST_EVALUATIONS)
        compare_paper(session, f'inverse, {name}', case, sizes)
        compare_certificate(session, f'inverse, {name}', case, sizes)
    for height, width in LARGE_QUICK if session.quick else LARGE if session.on_gpu else LARGE[:1]:
        block, x = CertifiedAttention2d(channels).to(session.device), torch.randn(1, channels, height, width)
        block(x.to(session.device))
        large = solved(block, x.to(session.device))
        shown = dict(B=1, C=channels, N=height * width, contraction=CONTRACTION, tol=TOLERANCE)
        compare_evaluations(session, 'inverse, random weights', large, shown, 1)
        compare_certificate(session, 'inverse, random weights', large, shown)
    if session.on_gpu:  # the rest has 16 pixels and is computed on the CPU
        return
    channels, size = 4, (4, 4)
    sizes = sizes | dict(B=1, C=channels, N=size[0] * size[1])
    cases = {
        mode: hardest(mode, channels, size, 5 if session.quick else 500)
        for mode in ('embedded_gaussian', 'dot_product', 'concatenation')
    }
    hardest_mode = max(cases, key=lambda mode: cases[mode][1])
    for mode, (case, steepest) in cases.items():
        note = f'steepness {steepest:.2f} at a bound of {case.block.lipschitz_bound():.2f}'
        compare_evaluations(
            session, f'inverse, steepest {mode} block', case, sizes, 1 / 3 if mode == hardest_mode else 1, note=note
        )


def compare_certificate(session: Session, what: str, case: Case, sizes: dict) -> None:
    """The inverse with its error bound against the one without."""
    with constant_weights(case.block):
        times = interleave(
            lambda: case.block.inverse(case.y, tol=TOLERANCE),
            lambda: case.block.inverse(case.y, tol=TOLERANCE, certify=False),
            session.rounds(7),
            waiter(session.device),
        )
    session.add(Line(what, 'itself without its certificate', sizes, [compared('time', 's', *times, 1.5)]))


def compare_paper(session: Session, what: str, case: Case, sizes: dict) -> None:
    """Comparison with the paper's method: always the same number of iterations."""
    with constant_weights(case.block):
        times = interleave(
            lambda: case.block.inverse(case.y, tol=TOLERANCE, certify=False),
            lambda: plain(case.block, case.y, PAPER_ITERATIONS),
            session.rounds(7),
            waiter(session.device),
        )
        errors = (case.inverted()[0], case.error(plain(case.block, case.y, PAPER_ITERATIONS)))
    session.add(
        Line(
            what,
            f"the paper's {PAPER_ITERATIONS} fixed iterations",
            sizes,
            [compared('time', 's', *times, 1 / 10), compared('relative error', '', *(e.tolist() for e in errors), 1)],
        )
    )
