"""Error of an inverse against the number of iterations, as in the figures of the paper."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ...layers import InvertibleModule

STEPS = (1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50, 100)


@torch.no_grad()
def solver_errors(flow: InvertibleModule, x: Tensor, steps: Sequence[int] = STEPS) -> Tensor:
    """Largest error of a value of each image after the given numbers of evaluations, shape (len(steps), B).

    The inverse is run again for every entry, with the precision of the dtype as its tolerance.
    """
    y = flow(x)
    eps = torch.finfo(x.dtype).eps
    return torch.stack([largest(flow.inverse(y, eps, k, strict=False)[0] - x) for k in steps])


@torch.no_grad()
def plain_errors(block: nn.Module, x: Tensor, steps: Sequence[int] = STEPS) -> Tensor:
    """The same for the inverse of the paper, ``x <- y - g(x)`` from ``x = y``, for a block ``y = x + g(x)``."""
    y = block(x)
    x_k, errors = y, []
    for k in range(1, max(steps) + 1):
        x_k = x_k + (y - block(x_k))
        if k in steps:
            errors.append(largest(x_k - x))
    return torch.stack(errors)


def largest(error: Tensor) -> Tensor:
    return error.abs().flatten(1).amax(1).nan_to_num(torch.inf)


def plot_convergence(path: Path, curves: dict[str, Tensor], steps: Sequence[int] = STEPS) -> None:
    """Draws one line for the median image and one for the worst image of every curve, with logarithmic axes."""
    from ...visualization.figures import new_figure, save_figure

    figure = new_figure(6.7, 4)
    axes = figure.add_subplot()
    for i, (name, errors) in enumerate(curves.items()):
        worst, median = errors.amax(1).double(), errors.double().median(1).values
        for values, style, which in ((worst, '-', 'worst'), (median, '--', 'median')):
            axes.plot(steps, values.clamp(1e-9, 1e9).tolist(), style, color=f'C{i}', label=f'{name}, {which} image')
    axes.set(xscale='log', yscale='log', xlabel='iterations', ylabel='largest error of an image (values span 1)')
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path)
