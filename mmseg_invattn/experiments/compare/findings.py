"""Sentences of the report: what its differences cover, what the control has, what could have been seen."""

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
        return 'One seed: how far another training would move the differences needs two seeds or more.'
    return (
        'The 95 % interval covers other trainings, evaluated on these images: a paired t interval over the seeds. '
        'The wider one covers other images too.'
    )


def _control(results: dict, labels: dict[str, str]) -> str:
    control = results['control']
    if control is None:
        return 'No head without attention takes part: this comparison does not say what attention brings.'
    has = f'The control {labels[control["name"]]} has {_of(results, control["name"])["miou"]:.2f} mIoU.'
    if not control['gains']:
        return f'{has} No head with ordinary attention takes part: this comparison does not say what attention brings.'
    return ' '.join([has, *(_gain(labels[name], gain) for name, gain in control['gains'].items())])


def _gain(label: str, gain: dict) -> str:
    verdict = difference_shown(gain)
    if gain['low'] is None:
        return (
            f'Ordinary attention ({label}) differs from it by {gain["mean"]:+.2f}. Whether that is chance is unknown '
            f'({no_interval(gain)}), so this comparison says nothing about what attention brings.'
        )
    lies = (
        f'Ordinary attention ({label}) differs from it by {gain["mean"]:+.2f} (95 % interval {gain["low"]:+.2f} to '
        f'{gain["high"]:+.2f})'
    )
    if verdict == 'ahead':
        return f'{lies}: it beats the control.'
    return f'{lies}: it does not beat the control, so this comparison says nothing about what attention brings.'


def _sensitivity(results: dict, labels: dict[str, str]) -> str:
    found = [head['difference']['detectable'] for head in results['heads'] if head['difference']]
    found = [value for value in found if value is not None]
    if not found:
        return ''
    span = f'{min(found):.2f}' if len(found) == 1 else f'{min(found):.2f} to {max(found):.2f}, depending on the head,'
    return (
        f'What could have been seen: {counted(len(results["seeds"]), "seed")} show a true difference to '
        f'{labels[results["baseline"]]} of {span} in about four of five comparisons, smaller ones less often.'
    )


def _claim(results: dict, labels: dict[str, str]) -> str:
    margin, by_verdict = results['margin'], {}
    if margin is None:
        return ''
    for head in results['heads']:
        if head['difference']:
            by_verdict.setdefault(less_worse_than(head['difference'], margin), []).append(head['label'])
    said = '; '.join(f'{verdict} for {", ".join(heads)}' for verdict, heads in by_verdict.items())
    return f'The claim that is tested: less than {margin:g} mIoU worse than {labels[results["baseline"]]}: {said}.'


def _leader(results: dict, labels: dict[str, str]) -> str:
    leader = results['leader']
    if leader is None or len(results['heads']) == 1:
        return ''
    name = labels[leader['name']]
    if len(results['seeds']) == 1:
        return f'The highest mIoU is that of {name}. Whether it is ahead needs two seeds.'
    if not leader['level']:
        return f'{name} is ahead of all others.'
    level = ', '.join(labels[other] for other in leader['level'])
    return f'The highest mIoU is that of {name}; no difference is shown to {level}.'


def _identities(results: dict) -> list[str]:
    found = []
    for head in results['heads']:
        seeds = head.get('identity_seeds')
        if seeds:
            which = f'seed{"s" * (len(seeds) > 1)} {", ".join(map(str, seeds))}'
            found.append(
                f'The attention of {head["label"]} is still the identity ({which}): it moves the median token by less '
                f'than {IDENTITY:g} of its length. What this head scores, it scores without attention.'
            )
    return found


def _of(results: dict, name: str) -> dict:
    return next(head for head in results['heads'] if head['name'] == name)


def is_ahead_of_all(results: dict, head: dict) -> bool:
    """Whether a head may be marked as the best."""
    leader = results['leader']
    return bool(leader and leader['name'] == head['name'] and leader['ahead'] and not leader['level'])
