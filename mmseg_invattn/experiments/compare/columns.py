"""The columns of the report's tables: the number of a head that each shows, and its format."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .statistics import with_other_images
from .verdicts import IDENTITY, difference_shown, less_worse_than, no_interval

NONE = '-'


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: its heading.
        value: gives the number of a head by which the column is sorted, or None.
        text: gives the text of the cell of a head.
        note: explanation for readers.
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
    """Three significant digits, with a power of ten for very small and very large numbers."""
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
    """The columns of scores and differences.

    Args:
        baseline: label of the head with which the others are compared.
        margin: see :mod:`.verdicts`.
    """

    def claim(head: dict) -> str:
        return less_worse_than(head['difference'], margin) if head['difference'] else NONE

    claimed = Column(
        f'less than {margin:g} worse' if margin else '',
        _of_difference('low'),
        claim,
        f'whether the mIoU of the head is less than {margin} below that of {baseline}: shown if the whole 95 % '
        f'interval of the difference is above -{margin}, refuted if it is below',
    )
    return [
        Column(
            'mIoU',
            lambda head: head.get('miou'),
            lambda head: with_spread(head.get('miou'), head.get('miou_std')),
            'mean intersection over union in per cent; mean ± standard deviation over the seeds',
        ),
        Column(
            'difference',
            _of_difference('mean'),
            lambda head: written(_of_difference('mean')(head), '{:+.2f}'.format),
            f'mIoU minus that of {baseline} with the same seeds and images, in percentage points',
        ),
        Column(
            '95 % interval',
            _of_difference('low'),
            _seeds_interval,
            'confidence interval of the difference, if the heads were trained again',
        ),
        Column(
            f'against {baseline}',
            _of_difference('low'),
            _verdict,
            'ahead or behind if the 95 % interval of the difference excludes 0',
        ),
        *([claimed] if margin else []),
        Column(
            'for other images too',
            _of_difference('low'),
            _wide_interval,
            '95 % interval that also includes the variation between images, by a paired bootstrap',
        ),
        Column(
            'visible difference',
            _of_difference('detectable'),
            lambda head: written(_of_difference('detectable')(head), '{:.2f}'.format),
            f'true difference to {baseline} that this number of seeds would show in four of five comparisons',
        ),
        Column(
            'aAcc',
            lambda head: head.get('aacc'),
            lambda head: with_spread(head.get('aacc'), head.get('aacc_std')),
            'share of the pixels that are predicted correctly, in per cent',
        ),
        Column(
            'seeds',
            lambda head: _done(head),
            lambda head: f'{_done(head)} of {len(head["runs"])}',
            'number of runs that were trained and evaluated',
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
        'GFLOPs',
        'flops',
        lambda v: significant(v / 1e9),
        'operations for one test image; a multiplication with addition counts as two',
    ),
    _number(
        's / iteration',
        'seconds_per_iteration',
        significant,
        'seconds of a training iteration with data loading, median over the log and the seeds',
    ),
    _speed(
        'latency',
        'latency',
        lambda v: f'{significant(v * 1000)} ms',
        'time for one image; median, the heads take turns',
    ),
    _speed('images / s', 'throughput', significant, 'images per second, in batches'),
    _number(
        'training memory',
        'training_bytes',
        _size,
        "peak memory of the GPU's allocator or, without a GPU, of the whole training process",
    ),
    _speed('inference memory', 'peak_bytes', _size, "peak memory of the GPU's allocator for a batch, with the weights"),
]
CERTIFICATE = [
    Column(
        "attention's share",
        lambda head: head.get('share'),
        _share,
        'how far attention moves the median token of real features, relative to its length; median over the seeds. '
        f'Below {IDENTITY:g} the attention is marked as (identity), because it still does nothing',
    ),
    _number(
        'certified bound',
        'bound',
        lambda v: f'{v:.4f}',
        'certified bound of the Lipschitz constant of the attention branch, the largest over blocks and seeds',
    ),
    _number(
        'measured Lipschitz',
        'local_lipschitz',
        significant,
        'largest local Lipschitz constant of y - x that was found at real features; it is a lower bound',
    ),
    _number(
        'inverse error', 'inverse_error', significant, 'largest error of an inverse, relative to the largest token'
    ),
    _number('error bound', 'relative_bound', significant, 'largest certified bound of that error'),
    _number(
        'evaluations', 'evaluations', lambda v: f'{v:.0f}', 'largest number of evaluations of a branch per inverse'
    ),
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
            'IoU in per cent',
        )

    return [column(index, name) for index, name in enumerate(classes)]


def _done(head: dict) -> int:
    return sum(run['status'] == 'done' for run in head['runs'])


def cells(head: dict, columns: list[Column]) -> list[Cell]:
    return [Cell(column.text(head), column.value(head)) for column in columns]
