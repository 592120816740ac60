"""Joins the results of several comparisons, which may come from different machines, as if they were one.

Heads are still paired by seed, since a seed has the same images in the same order on every machine. What is compared
only within one machine (speed) or needs the runs themselves (pixel counts of every image) is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mmengine.config import Config

from .pairing import set_apart, unpaired
from .statistics import paired
from .summary import label_of
from .verdicts import control_of, leader_of, plain

NEEDED = {'heads', 'protocol', 'places', 'split'}
TIMES = dict(speed={}, seconds_per_iteration=None)


class Recipe(NamedTuple):
    """The settings that the heads of one comparison share."""

    name: str
    cfg: Config


def joined(files: Sequence[tuple[str, dict]]) -> dict:
    """One comparison with all heads; the first file decides baseline, control and margin.

    Args:
        files: path and content of each results.json.

    Raises:
        ValueError: a file is none of a comparison, two have a head in common, or their heads were evaluated on
            different images or classes.
    """
    for path, results in files:
        if not NEEDED <= set(results):
            raise ValueError(f'--results {path}: this is not a results.json of a comparison')
    (first_path, first), *others = files
    heads, places = list(first['heads']), list(first['places'])
    for path, results in others:
        _check_joinable(first_path, first, heads, path, results)
        heads += [_moved(head, results['places'], places) for head in results['heads']]
    names, own = [head['name'] for head in heads], {head['name'] for head in first['heads']}
    miou = {head['name']: _miou(head) for head in heads}
    for number, head in enumerate(heads):
        heads[number] = head = dict(head, label=label_of(head['name'], names))
        if head['name'] not in own:
            found = plain(paired(miou[head['name']], miou[first['baseline']]))
            head['difference'] = found and dict(found, scatter_of_images=None)
    return dict(
        first,
        control=control_of(heads, miou, first['control'] and first['control']['name']),
        leader=leader_of(miou),
        protocol=_protocol([first, *(results for _, results in others)]),
        places=places,
        seeds=sorted({run['seed'] for head in heads for run in head['runs']}),
        heads=heads,
    )


def _miou(head: dict) -> dict[int, float]:
    return {run['seed']: run['miou'] for run in head['runs'] if run['miou'] is not None}


def _check_joinable(first_path: str, first: dict, heads: Sequence[dict], path: str, results: dict) -> None:
    twice = sorted({head['name'] for head in heads} & {head['name'] for head in results['heads']})
    if twice:
        raise ValueError(
            f'--results {path}: {twice[0]} is in another of the files too; a head must be in one file only, so run all '
            'of its seeds in one folder'
        )
    if (first['classes'], first['split']) != (results['classes'], results['split']):
        raise ValueError(
            f'--results {first_path} and {path}: their heads were evaluated on different images or classes'
        )


def _moved(head: dict, places: Sequence[dict], known: list[dict]) -> dict:
    """A head of another file, whose runs name their places in the list of known ones, which grows."""
    runs = []
    for run in head['runs']:
        starts = []
        for start in run['starts']:
            place = places[start['place']]
            if place not in known:
                known.append(place)
            starts.append(dict(start, place=known.index(place)))
        runs.append(dict(run, starts=starts))
    return dict(head, runs=runs, **TIMES)


def _protocol(all_results: Sequence[dict]) -> dict:
    """The schedules of all heads, and in which settings besides the decode head they differ from the first baseline."""
    first = all_results[0]
    schedules = [dict(found, heads=list(found['heads'])) for found in first['protocol']['schedules']]
    pairs, apart = list(first['protocol']['unpaired']), dict(first['protocol']['apart'])
    changes = list(first['protocol']['changes'])
    recipes = [Recipe(results['baseline'], Config(results['protocol']['recipe'])) for results in all_results]
    for recipe, results in zip(recipes[1:], all_results[1:], strict=True):
        other = results['protocol']
        for found in other['schedules']:
            same = next((known for known in schedules if {**known, 'heads': None} == {**found, 'heads': None}), None)
            if same is None:
                schedules.append(found)
            else:
                same['heads'] += found['heads']
        different = set_apart(recipe.cfg, recipes[0].cfg)
        for head in results['heads']:
            keys = sorted({*different, *other['apart'].get(head['name'], [])})
            if keys:
                apart[head['name']] = keys
        pairs += other['unpaired'] + unpaired([recipes[0], recipe])
        changes += other['changes']
    return dict(
        first['protocol'],
        schedules=schedules,
        changes=[change for number, change in enumerate(changes) if change not in changes[:number]],
        unpaired=list(dict.fromkeys(pairs)),
        apart=apart,
    )
