"""What the differences of a comparison say, and what they do not: each verdict in words that need one reading.

The claim that a margin tests is non-inferiority: the head loses less than so much mIoU to the baseline. It is shown
where the interval of the difference lies above ``-margin`` (one-sided, at 2.5 %), refuted where it lies below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .statistics import Paired, paired

# |y - x| / |x| of the median token below which an attention counts as the identity that it began as
IDENTITY = 1e-3


def no_interval(found: Mapping) -> str:
    """Why a difference has none."""
    return 'needs two seeds' if found['deviation'] is None else 'seeds do not differ'


def difference_shown(found: Mapping) -> str:
    """Whether a head is ahead of the other: ``ahead``, ``behind``, ``no difference shown``, or why that is unknown."""
    if found['low'] is None:
        return no_interval(found)
    if found['low'] > 0:
        return 'ahead'
    return 'behind' if found['high'] < 0 else 'no difference shown'


def less_worse_than(found: Mapping, margin: float) -> str:
    """Whether a head loses less than the margin: ``shown``, ``refuted``, ``not shown``, or why that is unknown."""
    if found['low'] is None:
        return no_interval(found)
    if found['low'] > -margin:
        return 'shown'
    return 'refuted' if found['high'] < -margin else 'not shown'


def leader_of(miou: Mapping[str, Mapping[int, float]]) -> dict | None:
    """The head with the highest mean, and the others by whether it is ahead of them: ``name``, ``ahead``, ``level``.

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
    """What ordinary attention gains over the head without attention: ``name``, and ``gains`` of each ordinary head.

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
    """As JSON holds it."""
    return found and dict(
        found._asdict(), per_seed={str(seed): round(value, 6) for seed, value in found.per_seed.items()}
    )
