"""Verdicts on the differences of a comparison, in words.

A margin tests for non-inferiority, which is the claim that the mIoU of a head is less than the margin below that of the
baseline. The claim is shown if the interval of the difference is above ``-margin`` (one-sided, at 2.5 %), and refuted
if it is below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .statistics import Paired, paired

# |y - x| / |x| of the median token below which an attention counts as the identity that it began as
IDENTITY = 1e-3


def no_interval(found: Mapping) -> str:
    """Why a difference has no interval."""
    return 'needs two seeds' if found['deviation'] is None else 'seeds do not differ'


def difference_shown(found: Mapping) -> str:
    """Whether a head is ahead of the other: ``ahead``, ``behind``, ``no difference shown``, or why that is unknown."""
    if found['low'] is None:
        return no_interval(found)
    if found['low'] > 0:
        return 'ahead'
    return 'behind' if found['high'] < 0 else 'no difference shown'


def less_worse_than(found: Mapping, margin: float) -> str:
    """Whether a head is less than the margin worse: ``shown``, ``refuted``, ``not shown``, or why that is unknown."""
    if found['low'] is None:
        return no_interval(found)
    if found['low'] > -margin:
        return 'shown'
    return 'refuted' if found['high'] < -margin else 'not shown'


def leader_of(miou: Mapping[str, Mapping[int, float]]) -> dict | None:
    """The head with the highest mean (``name``), the heads that it is ahead of (``ahead``), and the rest (``level``).

    Args:
        miou: name of a head -> seed -> mIoU.
    """
    means = {name: sum(seeds.values()) / len(seeds) for name, seeds in miou.items() if seeds}
    if not means:
        return None
    first = max(means, key=means.__getitem__)
    gaps = {name: paired(miou[first], miou[name]) for name in means if name != first}
    ahead = [name for name, gap in gaps.items() if gap is not None and difference_shown(gap._asdict()) == 'ahead']
    return dict(name=first, ahead=ahead, level=[name for name in gaps if name not in ahead])


def control_of(heads: Sequence[Mapping], miou: Mapping[str, Mapping[int, float]], chosen: str | None) -> dict | None:
    """The head without attention (``name``), and what each head with ordinary attention gains over it (``gains``).

    Args:
        heads: each with its ``name`` and ``kind``: ``none``, ``ordinary`` or ``invertible``.
        miou: name of a head -> seed -> mIoU.
        chosen: name of the control; None: the first head without attention.
    """
    name = chosen or next((head['name'] for head in heads if head.get('kind') == 'none'), None)
    if name is None or not miou[name]:
        return None
    gains = {}
    for head in heads:
        gain = paired(miou[head['name']], miou[name])
        if head.get('kind') == 'ordinary' and head['name'] != name and gain is not None:
            gains[head['name']] = plain(gain)
    return dict(name=name, gains=gains)


def plain(found: Paired | None) -> dict | None:
    """The difference as plain values for JSON."""
    return found and dict(
        found._asdict(), per_seed={str(seed): round(value, 6) for seed, value in found.per_seed.items()}
    )
