"""Collects all numbers of a comparison as plain values for results.json, from which the reports are rendered."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from .curves import read_curves
from .folder import read_json
from .pairing import for_json
from .plan import Run, by_baseline
from .protocol import protocol
from .statistics import Areas, paired, scatter_of_images, spread
from .verdicts import IDENTITY, control_of, leader_of, plain

# what a run has from its evaluation
EVALUATED = ('miou', 'aacc', 'iou', 'parameters', 'flops', 'attention', 'inverse')


def summarise(
    runs: Sequence[Run],
    baseline: str,
    options: Mapping | None,
    speed: dict | None,
    margin: float | None = None,
    control: str | None = None,
) -> dict:
    """Results of all runs and heads.

    Args:
        runs: runs of the comparison.
        baseline: name of the config with which the others are compared.
        options: options of all configs.
        margin: loss of mIoU that is tested for, see :mod:`.verdicts`; None for no test.
        control: name of the config without attention; None for the first whose model has none.
        speed: result of :func:`~mmseg_invattn.experiments.compare.speed.measure`; None if not measured.

    Raises:
        ValueError: the heads were evaluated on different images or classes.
    """
    names = list(dict.fromkeys(run.name for run in runs))
    places: list[dict] = []
    details = {run: _run(run, places) for run in runs}
    evaluations = {run: read_json(run.folder / 'evaluation.json') for run in runs}
    done = [run for run in runs if evaluations[run]]
    _check_same_split({run.title: evaluations[run] for run in done})
    areas = {
        name: {
            run.seed: Areas(np.load(run.folder / 'evaluation' / 'areas.npz')['counts'])
            for run in done
            if run.name == name
        }
        for name in names
    }
    miou = {name: scores_of(details[run] for run in runs if run.name == name) for name in names}
    heads = []
    for name in names:
        head = head_of(name, names, [details[run] for run in runs if run.name == name])
        head['decode_head'] = for_json(next(run for run in runs if run.name == name).cfg.model.get('decode_head'))
        head['speed'] = (speed or {}).get('heads', {}).get(name, {})
        found = plain(paired(miou[name], miou[baseline])) if name != baseline else None
        if found is not None:
            found['scatter_of_images'] = scatter_of_images(areas[name], areas[baseline])
        head['difference'] = found
        heads.append(head)
    first = evaluations[done[0]] if done else {}
    return dict(
        baseline=baseline,
        margin=margin,
        control=control_of(heads, miou, control),
        leader=leader_of(miou),
        protocol=protocol(by_baseline(runs, baseline), options),
        places=places,
        seeds=sorted({run.seed for run in runs}),
        classes=first.get('classes', []),
        palette=first.get('palette', []),
        images=len(first.get('images', [])),
        split=_split_hash(first.get('images', [])),
        speed={key: value for key, value in (speed or {}).items() if key not in ('heads', 'of')},
        heads=heads,
    )


def label_of(name: str, names: Sequence[str]) -> str:
    """The method in the name of a config, if nothing else in the names differs; otherwise the whole name."""
    methods, rests = zip(*(other.partition('_')[::2] for other in names), strict=True)
    return name.partition('_')[0] if len(set(methods)) == len(methods) and len(set(rests)) == 1 else name


def head_of(name: str, names: Sequence[str], runs: Sequence[dict]) -> dict:
    """A head with all numbers that follow from its runs.

    Args:
        name: of its config.
        names: of all configs.
        runs: its runs, as ``results.json`` has them.
    """
    head = dict(name=name, label=label_of(name, names), runs=list(runs))
    done = [run for run in runs if run['miou'] is not None]
    return head | _scores(done) | _costs(done) | _attention(done) if done else head


def scores_of(runs: Iterable[dict]) -> dict[int, float]:
    """Seed -> mIoU of the runs that are done."""
    return {run['seed']: run['miou'] for run in runs if run['miou'] is not None}


def _run(run: Run, places: list[dict]) -> dict:
    """The status of one run. Its device and versions are added to ``places`` if they are not there yet."""
    failed, state = read_json(run.folder / 'failed.json'), read_json(run.folder / 'run.json') or {}
    evaluation = read_json(run.folder / 'evaluation.json') or {}
    trained = read_json(run.folder / 'trained.json') or {}
    curves = read_curves(run.folder)
    starts = []
    for start in state.get('starts', []):
        place = {key: start[key] for key in ('device', 'python', 'versions', 'commit')}
        if place not in places:
            places.append(place)
        starts.append(dict(time=start['time'], place=places.index(place)))
    status = 'failed' if failed else 'done' if evaluation else 'not finished'
    return dict(
        config=run.source,
        seed=run.seed,
        status=status,
        failure=failed,
        fingerprint=run.fingerprint,
        folder=str(Path(run.name) / run.folder.name),
        starts=starts,
        checkpoint=trained.get('checkpoint'),
        given=run.checkpoint is not None,
        **{key: evaluation.get(key) for key in EVALUATED},
        curves=curves,
        resident_bytes=trained.get('resident_bytes'),
    )


def _split_hash(images: Sequence[str]) -> str:
    """Hash of the names of the images, in their order."""
    return hashlib.sha256('\n'.join(Path(image).name for image in images).encode()).hexdigest()


def _check_same_split(evaluations: Mapping[str, dict]) -> None:
    """Refuse a comparison on different images. Folders may differ, but not the names and the order of the images."""
    first = None
    for title, evaluation in evaluations.items():
        split = (evaluation['classes'], _split_hash(evaluation['images']))
        if first is not None and split != first[1]:
            raise ValueError(
                f'{first[0]} and {title} were evaluated on different images or classes: give their configs the same '
                'test_dataloader'
            )
        first = first or (title, split)


def _scores(runs: Sequence[dict]) -> dict:
    """Mean and standard deviation over the seeds."""
    found = {}
    for key in ('miou', 'aacc'):
        found[key], found[f'{key}_std'] = spread([run[key] for run in runs])
    per_class = [[v for v in values if v is not None] for values in zip(*(run['iou'] for run in runs), strict=True)]
    pairs = [spread(values) if values else (None, None) for values in per_class]
    return found | dict(iou=[pair[0] for pair in pairs], iou_std=[pair[1] for pair in pairs])


def _costs(runs: Sequence[dict]) -> dict:
    times = [run['curves']['seconds_per_iteration'] for run in runs]
    times = [value for value in times if value is not None]
    # that of the GPU's allocator if there is a GPU, otherwise that of the process
    memory = [run['curves']['memory_bytes'] or run['resident_bytes'] for run in runs]
    return dict(
        parameters=runs[0]['parameters'],
        flops=runs[0]['flops'],
        seconds_per_iteration=float(np.median(times)) if times else None,
        training_bytes=max((value for value in memory if value is not None), default=None),
    )


def _attention(runs: Sequence[dict]) -> dict:
    """The worst values over blocks and seeds; of shares the largest over the blocks, then the median of the seeds."""
    blocks = [block for run in runs for block in run['attention'].values()]
    inverses = [block for run in runs for block in run['inverse'].values()]
    bounds = [block['bound'] for block in blocks]
    clipped = [block['saturation'] for block in blocks if block['saturation'] is not None]
    shares = {
        run['seed']: max(block['share'] for block in run['attention'].values()) for run in runs if run['attention']
    }

    def worst(found: Sequence[dict], key: str) -> float | None:
        return max((block[key] for block in found if block.get(key) is not None), default=None)

    return dict(
        kind=('invertible' if all(block['invertible'] for block in blocks) else 'ordinary') if blocks else 'none',
        share=float(np.median(list(shares.values()))) if shares else None,
        identity_seeds=[seed for seed, share in shares.items() if share < IDENTITY],
        bound=max(bounds) if bounds and None not in bounds else None,
        local_lipschitz=worst(blocks, 'local_lipschitz'),
        clipped=float(np.mean(clipped)) if clipped else None,
        inverse_error=worst(inverses, 'relative_error'),
        inverse_bound=worst(inverses, 'error_bound'),
        relative_bound=worst(inverses, 'relative_bound'),
        inverse_error_absolute=worst(inverses, 'inverse_error'),
        evaluations=worst(inverses, 'evaluations'),
    )
