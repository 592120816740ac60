"""The columns of the report's tables: what they show of a head, and how it is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .statistics import with_other_images
from .verdicts import IDENTITY, difference_shown, less_worse_than, no_interval

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


def _seeds_interval(head: dict) -> str:
    found = head['difference']
    if not found:
        return NONE
    return no_interval(found) if found['low'] is None else f'{found["low"]:+.2f} to {found["high"]:+.2f}'


def _wide_interval(head: dict) -> str:
    wide = with_other_images(head['difference']) if head['difference'] else None
    return f'{wide[0]:+.2f} to {wide[1]:+.2f}' if wide else NONE


def _verdict(head: dict) -> str:
    return difference_shown(head['difference']) if head['difference'] else NONE


def accuracy_columns(baseline: str, margin: float | None) -> list[Column]:
    """Scores and differences.

    Args:
        baseline: label of the head that the others are compared with.
        margin: see :mod:`.verdicts`.
    """

    def claim(head: dict) -> str:
        return less_worse_than(head['difference'], margin) if head['difference'] else NONE

    claimed = Column(
        f'less than {margin:g} worse' if margin else '',
        _of_difference('low'),
        claim,
        f'whether the head loses less than {margin} mIoU to {baseline}: shown where the 95 % interval lies above '
        f'-{margin}, refuted where it lies below',
    )
    return [
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
            f'mIoU less that of {baseline}, the same seeds and images, in percentage points',
        ),
        Column('95 % interval', _of_difference('low'), _seeds_interval, 'of the difference, for other trainings'),
        Column(
            f'against {baseline}',
            _of_difference('low'),
            _verdict,
            'ahead or behind where the 95 % interval of the difference excludes 0',
        ),
        *([claimed] if margin else []),
        Column(
            'for other images too',
            _of_difference('low'),
            _wide_interval,
            '95 % interval that adds the scatter over images, by a paired bootstrap',
        ),
        Column(
            'visible difference',
            _of_difference('detectable'),
            lambda head: written(_of_difference('detectable')(head), '{:.2f}'.format),
            f'true difference to {baseline} that so many seeds show in four of five comparisons',
        ),
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


def _share(head: dict) -> str:
    if head.get('share') is None:
        return NONE
    identity = ' (identity)' if head['identity_seeds'] else ''
    return f'{significant(head["share"])}{identity}'


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
    Column(
        "attention's share",
        lambda head: head.get('share'),
        _share,
        'how far attention moves the median token of real features, relative to its length; median over the seeds. '
        f'Below {IDENTITY:g} it is marked: this attention is still the identity',
    ),
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
