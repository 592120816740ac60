"""The results that the demo shows: predictions with their IoU, the inverse, and a table of these."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmseg.evaluation import IoUMetric
from prettytable import PrettyTable
from torch import nn

from ..engine.scalars import find_logs, read_entries
from ..ops import max_token_norm

SHOWN = 12  # images of which pictures are drawn


def seconds_per_iteration(work_dir: Path) -> float:
    """Median over the log of the newest run, including data loading."""
    newest = find_logs(work_dir)[-1:]
    return median(entry['time'] for entry in read_entries(newest) if 'loss' in entry)


@torch.no_grad()
def evaluate(model: nn.Module, cfg: Config) -> dict:
    """Predictions for the validation split, their IoU computed by ``IoUMetric``, and the inverse if there is one.

    For the inverse there are the error and its certified bound of every image, and for the first images the features
    that the attention sees and those that the inverse recovers from its output, ``inverted``, (C, H, W) each.
    """
    loader = Runner.build_dataloader(cfg.test_dataloader)
    classes = loader.dataset.metainfo['classes']
    areas, images, truths, predictions, inverse, inverted = [], [], [], [], [], []
    head = model.decode_head
    invertible = hasattr(head, 'invert_attention')
    for batch in loader:
        for image, sample in zip(batch['inputs'], model.test_step(batch), strict=True):
            truth, prediction = sample.gt_sem_seg.data.squeeze().cpu(), sample.pred_sem_seg.data.squeeze().cpu()
            areas.append(IoUMetric.intersect_and_union(prediction, truth, len(classes), ignore_index=255))
            images.append(image.numpy()[::-1].transpose(1, 2, 0))  # BGR -> RGB
            truths.append(truth.numpy())
            predictions.append(prediction.numpy())
        if invertible:
            features = model.extract_feat(model.data_preprocessor(batch, training=False)['inputs'])
            seen, recovered, info = head.invert_attention(features)
            error = max_token_norm(recovered - seen)
            inverse.append(
                torch.stack([error, error / max_token_norm(seen), info.error_bound, info.iterations.to(error)]).cpu()
            )
            inverted += list(zip(seen.cpu(), recovered.cpu(), strict=True))[: SHOWN - len(inverted)]
    areas = [sum(area) for area in zip(*areas, strict=True)]
    scores = IoUMetric.total_area_to_metrics(*areas, metrics=['mIoU'])
    result = dict(
        classes=classes,
        palette=loader.dataset.metainfo['palette'],
        images=images,
        truths=truths,
        predictions=predictions,
        iou=dict(zip(classes, scores['IoU'] * 100, strict=True)),
        miou=float(np.nanmean(scores['IoU']) * 100),
    )
    if invertible:
        values = torch.cat(inverse, 1)
        # Maxima over all images of: error, error relative to the largest token, certified bound, evaluations.
        error, relative, bound, iterations = values.amax(1).tolist()
        result |= dict(
            lipschitz=head.attention.lipschitz_bound(),
            error=error,
            relative=relative,
            bound=bound,
            iterations=int(iterations),
            within=bool((values[0] <= values[2]).all()),
            errors=values[0].tolist(),
            bounds=values[2].tolist(),
            inverted=inverted,
        )
    return result


def make_table(results: dict[str, dict]) -> PrettyTable:
    classes = next(iter(results.values()))['classes']
    table = PrettyTable(['', *results])
    table.align[''] = 'l'
    rows = [('mIoU', lambda r: f'{r["miou"]:.2f}')]
    rows += [(f'IoU {name}', lambda r, name=name: f'{r["iou"][name]:.2f}') for name in classes]
    rows += [('parameters', lambda r: f'{r["parameters"]:,}'), ('seconds / iteration', lambda r: f'{r["seconds"]:.3f}')]
    certified = [
        ('certified Lipschitz bound', lambda r: f'{r["lipschitz"]:.4f}'),
        ('worst inverse error', lambda r: f'{r["error"]:.1e}'),
        ('worst inverse error, relative', lambda r: f'{r["relative"]:.1e}'),
        ('largest certified error bound', lambda r: f'{r["bound"]:.1e}'),
        ('every error within its bound', lambda r: 'yes' if r['within'] else 'NO'),
        ('most evaluations of an inverse', lambda r: str(r['iterations'])),
    ]
    for label, value in rows:
        table.add_row([label, *(value(r) for r in results.values())])
    for label, value in certified:
        table.add_row([label, *(value(r) if 'lipschitz' in r else '-' for r in results.values())])
    return table
