"""The facts at the top of a report: protocol, data, seeds, date, device, versions, commit."""

from __future__ import annotations

from collections.abc import Iterable

from ...wording import counted

VERSIONS = ('mmseg_invattn', 'torch', 'mmsegmentation', 'onedl-mmsegmentation', 'mmengine', 'onedl-mmengine')


def reduced(results: dict) -> str:
    """How the training was shortened, in one sentence; empty if it was not."""
    cut = [found for found in results['protocol']['schedules'] if (found['planned'] or 0) > (found['length'] or 0)]
    if not cut:
        return ''
    spans = dict.fromkeys(f'{found["length"]} of {found["planned"]} {found["unit"]}' for found in cut)
    return f'Reduced protocol: the training was shortened to {", ".join(spans)}.'


def warnings(results: dict) -> list[str]:
    """Why the heads with the same seed are not paired, one sentence for each reason."""
    return [
        f'Runs with the same seed are not paired: {reason}. So their differences vary more than necessary.'
        for reason in results['protocol']['unpaired']
    ]


def facts(results: dict) -> list[tuple[str, str]]:
    """Names and texts, in the order in which they are shown."""
    labels = {head['name']: head['label'] for head in results['heads']}
    runs = [run for head in results['heads'] for run in head['runs']]
    dates = sorted(start['time'][:10] for run in runs for start in run['starts'])
    found = [
        ('training', _schedules(results, labels)),
        ('options', _changes(results)),
        ('configs', _apart(results, labels)),
        ('images', f'{results["images"]} evaluated, {counted(len(results["classes"]), "class")}'),
        ('seeds', f'{len(results["seeds"])}: {", ".join(map(str, results["seeds"]))}'),
        ('date', ' to '.join(dict.fromkeys([dates[0], dates[-1]])) if dates else ''),
    ]
    places = results['places']
    found += [
        ('device', _unique(place['device'] for place in places)),
        ('versions', _unique(_versions(place) for place in places)),
        (
            'commit',
            _unique(place['commit'] or 'unknown, because the package is not a git checkout' for place in places),
        ),
    ]
    return [(name, text) for name, text in found if text]


def _schedules(results: dict, labels: dict[str, str]) -> str:
    schedules = results['protocol']['schedules']
    if not schedules:
        return 'none, because checkpoints were given'
    texts = []
    for found in schedules:
        planned = f' (the config has {found["planned"]})' if found['planned'] else ''
        heads = f'{", ".join(labels[name] for name in found["heads"])}: ' if len(schedules) > 1 else ''
        texts.append(f'{heads}{found["length"]} {found["unit"]} of batch {found["batch"]}{planned}')
    return '; '.join(texts)


def _changes(results: dict) -> str:
    changes = results['protocol']['changes']
    return '; '.join(f'{change["key"]}={change["now"]} (was {change["was"]})' for change in changes)


def _apart(results: dict, labels: dict[str, str]) -> str:
    """Which heads differ from the baseline, and in which settings."""
    by_keys: dict[tuple[str, ...], list[str]] = {}
    for name, keys in results['protocol']['apart'].items():
        by_keys.setdefault(tuple(keys), []).append(labels[name])
    said = '; '.join(f'{", ".join(heads)} in {", ".join(keys)}' for keys, heads in by_keys.items())
    return said and f'differences from the baseline besides the decode head: {said}'


def _versions(place: dict) -> str:
    found = [f'{name} {place["versions"][name]}' for name in VERSIONS if name in place['versions']]
    return ', '.join([*found, f'Python {place["python"]}'])


def _unique(texts: Iterable[str]) -> str:
    return ' and '.join(dict.fromkeys(texts))
