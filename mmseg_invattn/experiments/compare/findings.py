"""Sentences of the report: what its intervals mean, the result of the control, and which differences could show."""

from __future__ import annotations

from ...wording import counted
from .verdicts import IDENTITY, difference_shown, less_worse_than, no_interval


def findings(results: dict) -> list[str]:
    """One paragraph each, under the table of the accuracy."""
    labels = {head['name']: head['label'] for head in results['heads']}
    found = [_intervals(results), _control(results, labels), _sensitivity(results, labels)]
    found += [_claim(results, labels), _leader(results, labels), *_identities(results)]
    return [sentence for sentence in found if sentence]


def _intervals(results: dict) -> str:
    if len(results['seeds']) == 1:
        return 'There is one seed. At least two are needed to tell how much the differences vary between trainings.'
    return (
        'The 95 % interval tells how the difference would vary if the heads were trained again and evaluated on the '
        'same images (a paired t interval over the seeds). The wider interval also covers other images.'
    )


def _control(results: dict, labels: dict[str, str]) -> str:
    control = results['control']
    if control is None:
        return 'There is no head without attention, so this comparison does not tell what attention gains.'
    has = f'The control {labels[control["name"]]} has {_of(results, control["name"])["miou"]:.2f} mIoU.'
    if not control['gains']:
        return f'{has} There is no head with ordinary attention, so this comparison does not tell what attention gains.'
    return ' '.join([has, *(_gain(labels[name], gain) for name, gain in control['gains'].items())])


def _gain(label: str, gain: dict) -> str:
    verdict = difference_shown(gain)
    if gain['low'] is None:
        return (
            f'Ordinary attention ({label}) differs from it by {gain["mean"]:+.2f}. This may be chance '
            f'({no_interval(gain)}), so this comparison does not tell what attention gains.'
        )
    lies = (
        f'Ordinary attention ({label}) differs from it by {gain["mean"]:+.2f} (95 % interval {gain["low"]:+.2f} to '
        f'{gain["high"]:+.2f})'
    )
    if verdict == 'ahead':
        return f'{lies}: it beats the control.'
    return f'{lies}: it does not beat the control, so this comparison does not tell what attention gains.'


def _sensitivity(results: dict, labels: dict[str, str]) -> str:
    found = [head['difference']['detectable'] for head in results['heads'] if head['difference']]
    found = [value for value in found if value is not None]
    if not found:
        return ''
    span = f'{min(found):.2f}' if len(found) == 1 else f'{min(found):.2f} to {max(found):.2f} (depending on the head)'
    return (
        f'Visible difference: with {counted(len(results["seeds"]), "seed")}, about four of five comparisons '
        f'would show a true difference to {labels[results["baseline"]]} of {span}. Smaller ones show less often.'
    )


def _claim(results: dict, labels: dict[str, str]) -> str:
    margin, by_verdict = results['margin'], {}
    if margin is None:
        return ''
    for head in results['heads']:
        if head['difference']:
            by_verdict.setdefault(less_worse_than(head['difference'], margin), []).append(head['label'])
    said = '; '.join(f'{verdict} for {", ".join(heads)}' for verdict, heads in by_verdict.items())
    return (
        f'Tested claim: the mIoU of a head is less than {margin:g} below that of {labels[results["baseline"]]}. '
        f'Result: {said}.'
    )


def _leader(results: dict, labels: dict[str, str]) -> str:
    leader = results['leader']
    if leader is None or len(results['heads']) == 1:
        return ''
    name = labels[leader['name']]
    if len(results['seeds']) == 1:
        return f'{name} has the highest mIoU. At least two seeds are needed to show that it is ahead.'
    if not leader['level']:
        return f'{name} is ahead of all others.'
    level = ', '.join(labels[other] for other in leader['level'])
    return f'{name} has the highest mIoU, but is not shown to be ahead of {level}.'


def _identities(results: dict) -> list[str]:
    found = []
    for head in results['heads']:
        seeds = head.get('identity_seeds')
        if seeds:
            which = f'seed{"s" * (len(seeds) > 1)} {", ".join(map(str, seeds))}'
            found.append(
                f'The attention of {head["label"]} is still the identity ({which}): it moves the median token by less '
                f'than {IDENTITY:g} of its length. So the score of this head is one without attention.'
            )
    return found


def _of(results: dict, name: str) -> dict:
    return next(head for head in results['heads'] if head['name'] == name)


def is_ahead_of_all(results: dict, head: dict) -> bool:
    """Whether a head may be marked as the best."""
    leader = results['leader']
    return bool(leader and leader['name'] == head['name'] and leader['ahead'] and not leader['level'])
