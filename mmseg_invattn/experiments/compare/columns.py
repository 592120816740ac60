"""The columns of the report's tables: what they show of a head, and how it is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

NONE = '-'


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: its head.
        value: number of a head that it is sorted by; None where there is none.
        text: how it is written.
        note: what it is.
    """

    title: str
    value: Callable[[dict], float | None]
    text: Callable[[dict], str]
    note: str


class Cell(NamedTuple):
    text: str
    value: float | None


def _number(title: str, key: str, form: Callable[[float], str], note: str) -> Column:
    return Column(title, lambda head: head.get(key), lambda head: written(head.get(key), form), note)


def _speed(title: str, key: str, form: Callable[[float], str], note: str) -> Column:
    return Column(title, lambda head: head['speed'].get(key), lambda head: written(head['speed'].get(key), form), note)


def written(value: float | None, form: Callable[[float], str]) -> str:
    return NONE if value is None else form(value)


def with_spread(mean: float | None, deviation: float | None, digits: int = 2) -> str:
    if mean is None:
        return NONE
    return f'{mean:.{digits}f}' if deviation is None else f'{mean:.{digits}f} ± {deviation:.{digits}f}'


def significant(value: float) -> str:
    """Three digits that matter, and a power of ten where more zeros than that would stand before or after them."""
    if value and not 1e-3 <= abs(value) < 1e5:
        return f'{value:.1e}'
    return f'{value:,.0f}' if abs(value) >= 100 else f'{value:#.3g}'


def _count(number: float) -> str:
    return f'{number / 1e6:.2f} M' if number >= 1e6 else f'{number / 1e3:.1f} k'


def _size(count: float) -> str:
    return f'{count / 2**30:.2f} GiB' if count >= 2**30 else f'{count / 2**20:.0f} MiB'


def _of_difference(key: str) -> Callable[[dict], float | None]:
    return lambda head: head['difference'][key] if head['difference'] else None


def _interval(head: dict) -> str:
    found = head['difference']
    return f'{found["low"]:+.2f} to {found["high"]:+.2f}' if found else NONE


ACCURACY = [
    Column(
        'mIoU',
        lambda head: head.get('miou'),
        lambda head: with_spread(head.get('miou'), head.get('miou_std')),
        'mean intersection over union in percent; mean ± standard deviation over the seeds',
    ),
    Column(
        'difference',
        _of_difference('mean'),
        lambda head: written(_of_difference('mean')(head), '{:+.2f}'.format),
        'mIoU less that of the baseline, the same seeds and images, in percentage points',
    ),
    Column('95 % interval', _of_difference('low'), _interval, 'of the difference'),
    Column(
        'aAcc',
        lambda head: head.get('aacc'),
        lambda head: with_spread(head.get('aacc'), head.get('aacc_std')),
        'share of the pixels that are right, in percent',
    ),
    Column(
        'seeds',
        lambda head: _done(head),
        lambda head: f'{_done(head)} of {len(head["runs"])}',
        'trainings that went well',
    ),
]
COST = [
    _number('parameters', 'parameters', _count, 'of the whole model'),
    _number(
        'GFLOPs', 'flops', lambda v: significant(v / 1e9), 'of one test image, two for a multiplication with addition'
    ),
    _number(
        's / iteration',
        'seconds_per_iteration',
        significant,
        'of the training, median over the log and the seeds, data loading included',
    ),
    _speed(
        'latency', 'latency', lambda v: f'{significant(v * 1000)} ms', 'of one image, median, all heads taking turns'
    ),
    _speed('images / s', 'throughput', significant, 'in batches'),
    _number(
        'training memory',
        'training_bytes',
        _size,
        "peak: of the GPU's allocator, or without a GPU of the whole training process",
    ),
    _speed('inference memory', 'peak_bytes', _size, "peak of the GPU's allocator for a batch, weights included"),
]
CERTIFICATE = [
    _number(
        'certified bound',
        'bound',
        lambda v: f'{v:.4f}',
        'of the Lipschitz constant of the attention branch, the largest over blocks and seeds',
    ),
    _number(
        'measured Lipschitz',
        'local_lipschitz',
        significant,
        'largest local constant of y - x found on real features: a lower bound',
    ),
    _number('inverse error', 'inverse_error', significant, 'largest, relative to the largest token'),
    _number('error bound', 'relative_bound', significant, 'certified, of that error, the largest'),
    _number('evaluations', 'evaluations', lambda v: f'{v:.0f}', 'of the branch for one inverse, the most'),
    _number(
        'clipped', 'clipped', lambda v: f'{100 * v:.1f} %', 'share of the tokens that the ball of the scores clips'
    ),
]


def class_columns(classes: list[str]) -> list[Column]:
    """IoU of every class."""

    def column(index: int, name: str) -> Column:
        def pick(head: dict, key: str) -> float | None:
            return head[key][index] if key in head else None

        return Column(
            name,
            lambda head: pick(head, 'iou'),
            lambda head: with_spread(pick(head, 'iou'), pick(head, 'iou_std'), 1),
            'IoU in percent',
        )

    return [column(index, name) for index, name in enumerate(classes)]


def _done(head: dict) -> int:
    return sum(run['status'] == 'done' for run in head['runs'])


def cells(head: dict, columns: list[Column]) -> list[Cell]:
    return [Cell(column.text(head), column.value(head)) for column in columns]
