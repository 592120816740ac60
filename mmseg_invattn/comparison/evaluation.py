"""Evaluation of one trained run, in a process of its own: ``python -m mmseg_invattn.comparison.evaluation FOLDER``."""
from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..compat import read_checkpoint, use_safe_checkpoint_loading
from ..datasets.checks import check_data_folders
from ..engine.cli import build_runner
from . import metric  # noqa: F401  (registers the metric that the config below names)
from .attention import measure_attention
from .folder import write_json
from .plan import config_of
from .statistics import Areas, scores
from .training import checkpoint_of

INVERTED_IMAGES = 8  # feature maps that are inverted, for each block
MEASURED_IMAGES = 2  # images on which local Lipschitz constants and saturation are measured
CERTIFICATE = dict(type='CertificateHook', max_val_images=INVERTED_IMAGES)


def evaluate(folder: Path) -> None:
    """Evaluate a run on its config's test split and write ``evaluation.json``, areas and predictions.

    Raises:
        ValueError: the weights are not those of the config's model.
    """
    out = folder / 'evaluation'
    shutil.rmtree(out, ignore_errors=True)  # of an evaluation that was stopped
    cfg = evaluation_config(folder, out)
    use_safe_checkpoint_loading()
    check_data_folders(cfg, ('val', ))
    runner = build_runner(cfg)
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    weights = read_checkpoint(cfg.load_from, 'cpu')
    check_weights(model, weights.get('state_dict', weights), cfg.load_from)
    runner.val()
    model.eval()
    areas = np.load(out / 'areas.npz')
    found = scores(Areas(areas['counts']).total())
    meta = runner.val_dataloader.dataset.metainfo
    write_json(folder / 'evaluation.json', dict(
        miou=float(found.miou), aacc=float(found.aacc), iou=[_plain(value) for value in found.iou],
        classes=list(meta['classes']), palette=[list(map(int, colour)) for colour in meta['palette']],
        images=areas['images'].tolist(), parameters=sum(p.numel() for p in model.parameters()),
        flops=_flops(model, next(_batches(runner, 1))),
        attention=measure_attention(model, _batches(runner, MEASURED_IMAGES)), inverse=_inverse(runner)))


def evaluation_config(folder: Path, out: Path) -> Config:
    """The config of a run, set up to validate on the test split with our metric."""
    cfg = Config.fromfile(config_of(folder))
    cfg.val_dataloader, cfg.val_cfg = cfg.test_dataloader, dict(type='ValLoop')
    cfg.val_evaluator = dict(type='InvPerImageMetric', out_dir=str(out), ignore_index=ignored_label(cfg))
    cfg.custom_hooks = [hook for hook in cfg.get('custom_hooks') or [] if hook['type'] != CERTIFICATE['type']]
    cfg.custom_hooks.append(CERTIFICATE)
    cfg.load_from, cfg.resume, cfg.work_dir = str(checkpoint_of(folder)), False, str(out)
    cfg.experiment_name = f'evaluation_{folder.parent.name}_{folder.name}'
    if cfg.model.get('pretrained'):  # the checkpoint holds all weights
        cfg.model.pretrained = None
    return cfg


def ignored_label(cfg: Config) -> int:
    """The label of pixels that do not count, by the config's evaluators."""
    evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, (list, tuple)) else [cfg.test_evaluator]
    return next((evaluator['ignore_index'] for evaluator in evaluators if 'ignore_index' in evaluator), 255)


def check_weights(model: nn.Module, weights: dict, source: str) -> None:
    """Refuse weights that belong to another model.

    Raises:
        ValueError: names or shapes differ; it names the first of them.
    """
    ours, theirs = model.state_dict(), {key.removeprefix('module.'): value for key, value in weights.items()}
    wrong = [f'{key} is missing' for key in ours if key not in theirs]
    wrong += [f'{key} is not in the model' for key in theirs if key not in ours]
    wrong += [f'{key} has the shape {tuple(theirs[key].shape)}, the model has {tuple(value.shape)}'
              for key, value in ours.items() if key in theirs and theirs[key].shape != value.shape]
    if wrong:
        more = f'; and {len(wrong) - 3} more' if len(wrong) > 3 else ''
        raise ValueError(f'{source} does not belong to this config: {"; ".join(wrong[:3])}{more}')


def _batches(runner: Runner, count: int) -> Iterator[dict]:
    dataset = runner.val_dataloader.dataset
    for index in range(min(count, len(dataset))):
        yield pseudo_collate([dataset[index]])


@torch.no_grad()
def _flops(model: nn.Module, batch: dict) -> int:
    """Of the forward pass of one test image, as torch counts them: a multiplication and an addition are two."""
    with FlopCounterMode(display=False) as counter:
        model.test_step(batch)
    return counter.get_total_flops()


def _inverse(runner: Runner) -> dict[str, dict]:
    """Block -> what CertificateHook found while the split was validated."""
    found: dict[str, dict] = {}
    for key, values in runner.message_hub.log_scalars.items():
        if key.startswith('val/certificate/'):
            name, measure = key.removeprefix('val/certificate/').rsplit('/', 1)
            found.setdefault(name, {})[measure] = _plain(values.current())
    return found


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


if __name__ == '__main__':
    evaluate(Path(sys.argv[1]))
