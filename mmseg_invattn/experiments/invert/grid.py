"""Inverts blocks over a grid of settings to see which inverses fail.

A cell is a block of one mode and form with a number of channels and features of a certain scale, before or after
training to random targets at a high learning rate, in float32 or float64. It counts as failed if a sample does not
converge, or if the true error exceeds the reported bound. Without a bound it counts as failed if the true error exceeds
1e-2 of the features, because an iteration can converge to another input.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ...choices import GRID_CHANNELS as CHANNELS
from ...layers import FORMS
from ...ops import max_token_norm

SOUND = ('certified', 'conditional', 'coupling')  # the forms that guarantee their inverse
SCALES = (1e-3, 0.3, 1.0, 5.0, 1e3)
STEPS = (0, 200)
DTYPES = (torch.float32, torch.float64)
SIZE = (6, 6)
WRONG = 1e-2  # relative error of an inverse that found another input


@dataclass(frozen=True)
class Setting:
    """One cell of the grid."""

    form: str
    mode: str
    channels: int
    scale: float
    steps: int
    dtype: torch.dtype


@dataclass(frozen=True)
class Outcome:
    """The result of the inverse of a cell, the worst over its samples.

    Attributes:
        converged: whether all samples converged according to the report.
        held: whether the true error is within the reported bound for all samples; None without a bound.
        error: true error over the largest token norm.
        iterations: evaluations of the branch.
        steepness: measured local Lipschitz constant.
    """

    converged: bool
    held: bool | None
    error: float
    iterations: int
    steepness: float

    @property
    def failed(self) -> bool:
        return not self.converged or self.held is False or (self.held is None and not self.error < WRONG)


def settings(
    forms: tuple[str, ...], modes: tuple[str, ...], thin: bool = False, channels: tuple[int, ...] = CHANNELS
) -> Iterator[Setting]:
    """All cells, or one in seven; seven has no common factor with the sizes of the axes, so every value occurs."""
    cells = itertools.product(forms, modes, channels, SCALES, STEPS, DTYPES)
    return (Setting(*cell) for place, cell in enumerate(cells) if not thin or place % 7 == 0)


def run_cell(setting: Setting, samples: int = 4, max_iter: int = 200) -> Outcome:
    """Builds, trains and inverts one cell; every call gives the same numbers."""
    torch.manual_seed(CHANNELS.index(setting.channels) * 100 + SCALES.index(setting.scale) * 10)
    reduction = 4 if setting.form == 'paper' else 2
    block = FORMS[setting.form](setting.channels, reduction=reduction, mode=setting.mode).to(setting.dtype)
    shape = (samples, setting.channels, *SIZE)
    x = torch.randn(shape, dtype=setting.dtype) * setting.scale
    target = torch.randn(shape, dtype=setting.dtype) * setting.scale
    block.train()(x)
    optimiser = torch.optim.Adam(block.parameters(), lr=0.03)
    for _ in range(setting.steps):
        optimiser.zero_grad()
        ((block(x) - target) / setting.scale).square().mean().backward()
        optimiser.step()
    block.eval()
    y = block(x).detach()
    if not y.isfinite().all():  # the inverse would raise an error
        return Outcome(False, None, float('nan'), 0, float('nan'))
    x_hat, info = block.inverse(
        y, tol=1e-6 if setting.dtype == torch.float32 else 1e-12, max_iter=max_iter, strict=False
    )
    error = max_token_norm(x_hat - x)
    held = None if info.error_bound.isnan().any() else bool((error <= info.error_bound).all())
    steepness = block.local_lipschitz(x[:1]).max() if setting.channels <= 64 else torch.tensor(float('nan'))
    return Outcome(
        bool(info.converged.all()),
        held,
        float((error / max_token_norm(x)).max()),
        int(info.iterations.max()),
        float(steepness),
    )


def table(results: dict[Setting, Outcome]) -> str:
    """A Markdown table with one line for every form and mode."""
    groups = defaultdict(list)
    for setting, outcome in results.items():
        groups[setting.form, setting.mode].append((setting, outcome))
    lines = [
        '| form | mode | cells | failed | not converged | bound broken | another input | worst error float32 '
        '| float64 | most evaluations | steepest |',
        '| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |',
    ]
    for (form, mode), cells in groups.items():
        outcomes = [outcome for _, outcome in cells]
        worst = [
            max((o.error if o.error == o.error else float('inf') for s, o in cells if s.dtype == dtype), default=0)
            for dtype in DTYPES
        ]
        steep = max((o.steepness for o in outcomes if o.steepness == o.steepness), default=float('nan'))
        other = sum(o.converged and o.held is None and not o.error < WRONG for o in outcomes)
        lines.append(
            f'| {form} | {mode} | {len(cells)} | {sum(o.failed for o in outcomes)} '
            f'| {sum(not o.converged for o in outcomes)} | {sum(o.held is False for o in outcomes)} | {other} '
            f'| {worst[0]:.1e} | {worst[1]:.1e} | {max(o.iterations for o in outcomes)} | {steep:.3g} |'
        )
    return '\n'.join(lines)
