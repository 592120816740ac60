"""Joins the results of several comparisons, which may come from different machines, as if they were one.

Each file has other heads, or other seeds of the same heads. Runs are still paired by seed, since a seed has the same
images in the same order on every machine. What is compared only within one machine (times) or needs the runs themselves
(pixel counts of every image) is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mmengine.config import Config

from .pairing import set_apart, unpaired
from .protocol import merged_schedules
from .statistics import paired
from .summary import EVALUATED, head_of, label_of, scores_of
from .verdicts import control_of, leader_of, plain

NEEDED = {'heads', 'protocol', 'places', 'split'}


class Recipe(NamedTuple):
    """The settings that the heads of one comparison share."""

    name: str
    cfg: Config


def joined(files: Sequence[tuple[str, dict]], margin: float | None = None) -> dict:
    """One comparison with all runs; the first file decides the baseline and the control.

    Args:
        files: path and content of each results.json.
        margin: of several files; None: that of the first.

    Raises:
        ValueError: a file is none of a comparison, a run is in two files, or files differ in their images or classes.
    """
    for path, results in files:
        if not NEEDED <= set(results):
            raise ValueError(f'--results {path}: this is not a results.json of a comparison')
    first = files[0][1]
    if len(files) == 1:
        return first
    places: list[dict] = []
    parts: dict[str, list[dict]] = {}  # name -> that head in each file that has it
    evaluated = [(path, results) for path, results in files if results['images']] or files[:1]  # all but failures
    for path, results in evaluated[1:]:
        if any(results[key] != evaluated[0][1][key] for key in ('classes', 'split')):
            raise ValueError(
                f'--results {evaluated[0][0]} and {path}: their heads were evaluated on different images or classes'
            )
    for path, results in files:
        for head in results['heads']:
            _check_runs(path, head, parts.setdefault(head['name'], []))
            parts[head['name']].append(dict(head, runs=_moved(head['runs'], results['places'], places)))
    devices = {place['device'] for place in first['places']}
    heads = [_head(found, list(parts), places, devices) for found in parts.values()]
    miou, own = (
        {head['name']: scores_of(head['runs']) for head in heads},
        {head['name']: head for head in first['heads']},
    )
    for head in heads:
        name, pair = head['name'], {head['name'], first['baseline']}
        head['speed'] = own[name]['speed'] if name in own else {}
        if len(pair) == 2 and not all(other in own and len(parts[other]) == 1 for other in pair):
            found = plain(paired(miou[name], miou[first['baseline']]))
            head['difference'] = found and dict(found, scatter_of_images=None)
    return dict(
        first,
        margin=first['margin'] if margin is None else margin,
        control=control_of(heads, miou, first['control'] and first['control']['name']),
        leader=leader_of(miou),
        protocol=_protocol([results for _, results in files]),
        places=places,
        **{key: evaluated[0][1][key] for key in ('classes', 'palette', 'images', 'split')},
        seeds=sorted({run['seed'] for head in heads for run in head['runs']}),
        heads=heads,
    )


def _check_runs(path: str, head: dict, others: Sequence[dict]) -> None:
    seeds = {run['seed'] for run in head['runs']}
    twice = sorted(seeds & {run['seed'] for other in others for run in other['runs']})
    if twice:
        raise ValueError(
            f'--results {path}: {head["name"]}, seed {twice[0]} is in another of the files too; each run must be in '
            'one file only'
        )


def _moved(runs: Sequence[dict], places: Sequence[dict], known: list[dict]) -> list[dict]:
    """Runs that name their places in the list of known ones, which grows."""
    moved = []
    for run in runs:
        starts = []
        for start in run['starts']:
            place = places[start['place']]
            if place not in known:
                known.append(place)
            starts.append(dict(start, place=known.index(place)))
        moved.append(dict(run, starts=starts))
    return moved


def _head(parts: Sequence[dict], names: Sequence[str], places: Sequence[dict], devices: set[str]) -> dict:
    """A head with the runs of all its parts; the seconds of an iteration only if all were measured on these devices."""
    name = parts[0]['name']
    if len(parts) == 1:
        head = dict(parts[0], label=label_of(name, names))
    else:
        runs = sorted((run for part in parts for run in part['runs']), key=lambda run: run['seed'])
        missing = [key for run in runs for key in EVALUATED if key not in run]
        if missing:
            raise ValueError(f'--results: runs of {name} have no {missing[0]}, so its seeds cannot be joined')
        if any(part['decode_head'] != parts[0]['decode_head'] for part in parts):
            raise ValueError(f'--results: {name} has another decode_head in another file: give the heads other names')
        head = dict(head_of(name, names, runs), decode_head=parts[0]['decode_head'], difference=None)
    if not {places[start['place']]['device'] for run in head['runs'] for start in run['starts']} <= devices:
        head['seconds_per_iteration'] = None
    return head


def _protocol(all_results: Sequence[dict]) -> dict:
    """The schedules of all heads, and in which settings besides the decode head they differ from the first baseline."""
    first = all_results[0]
    pairs, apart = list(first['protocol']['unpaired']), dict(first['protocol']['apart'])
    changes = list(first['protocol']['changes'])
    recipes = [Recipe(results['baseline'], Config(results['protocol']['recipe'])) for results in all_results]
    for recipe, results in zip(recipes[1:], all_results[1:], strict=True):
        other = results['protocol']
        changes += other['changes']
        if not (first['protocol']['schedules'] and other['schedules']):  # checkpoints were given
            continue
        different = set_apart(recipe.cfg, recipes[0].cfg)
        for head in results['heads']:
            keys = sorted({*different, *other['apart'].get(head['name'], [])})
            if keys:
                apart[head['name']] = keys
        pairs += other['unpaired'] + unpaired([recipes[0], recipe])
    return dict(
        first['protocol'],
        schedules=merged_schedules(found for results in all_results for found in results['protocol']['schedules']),
        changes=[change for number, change in enumerate(changes) if change not in changes[:number]],
        unpaired=list(dict.fromkeys(pairs)),
        apart=apart,
    )
