"""Evaluation of a trained run, in its own process: ``python -m mmseg_invattn.experiments.compare.evaluation DIR``."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner

from ...compat import type_name
from ...datasets.checks import check_data_folders
from ...engine.checkpoints import use_safe_checkpoint_loading
from ...engine.launch import build_test_runner
from ...engine.launched import end_with_launcher
from ...evaluation.complexity import count_flops, count_parameters
from ...layers import constant_weights
from . import metric  # noqa: F401  (registers the metric that the config below names)
from .attention import measure_attention
from .folder import write_json
from .plan import config_of
from .statistics import Areas, scores
from .training import checkpoint_of

INVERTED_IMAGES = 8  # number of feature maps that are inverted for each block
MEASURED_IMAGES = 2  # number of images on which local Lipschitz constants and saturation are measured
CERTIFICATE = dict(type='CertificateHook', max_val_images=INVERTED_IMAGES)


def evaluate(folder: Path) -> None:
    """Evaluate a run on its config's test split and write ``evaluation.json``, areas and predictions.

    Raises:
        CheckpointMismatchError: the weights are those of another model.
    """
    out = folder / 'evaluation'
    shutil.rmtree(out, ignore_errors=True)  # left by an evaluation that was stopped
    cfg = evaluation_config(folder, out)
    use_safe_checkpoint_loading()
    check_data_folders(cfg, ('val',))
    runner = build_test_runner(cfg, str(checkpoint_of(folder)))
    runner.val()
    model, image = runner.model.eval(), next(_batches(runner, 1))
    with constant_weights(model):
        attention = measure_attention(model, _batches(runner, MEASURED_IMAGES))
        flops = count_flops(lambda: model.test_step(image))
    areas = np.load(out / 'areas.npz')
    found = scores(Areas(areas['counts']).total())
    meta = runner.val_dataloader.dataset.metainfo
    write_json(
        folder / 'evaluation.json',
        dict(
            miou=float(found.miou),
            aacc=float(found.aacc),
            iou=[_plain(value) for value in found.iou],
            classes=list(meta['classes']),
            palette=[list(map(int, colour)) for colour in meta['palette']],
            images=areas['images'].tolist(),
            parameters=count_parameters(model),
            flops=flops,
            attention=attention,
            inverse=_inverse(runner),
        ),
    )


def evaluation_config(folder: Path, out: Path) -> Config:
    """The config of a run, changed to validate on the test split with the metric of the comparison."""
    cfg = Config.fromfile(config_of(folder))
    cfg.val_dataloader, cfg.val_cfg = cfg.test_dataloader, dict(type='ValLoop')
    cfg.val_evaluator = dict(type='InvPerImageMetric', out_dir=str(out), ignore_index=ignored_label(cfg))
    cfg.custom_hooks = [hook for hook in cfg.get('custom_hooks') or [] if type_name(hook) != CERTIFICATE['type']]
    cfg.default_hooks = dict(cfg.get('default_hooks') or {}, certificate=CERTIFICATE)
    cfg.work_dir = str(out)
    cfg.experiment_name = f'evaluation_{folder.parent.name}_{folder.name}'
    if cfg.model.get('pretrained'):  # the checkpoint holds all weights
        cfg.model.pretrained = None
    return cfg


def ignored_label(cfg: Config) -> int:
    """The label of pixels that do not count, from the config's evaluators."""
    evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, (list, tuple)) else [cfg.test_evaluator]
    return next((evaluator['ignore_index'] for evaluator in evaluators if 'ignore_index' in evaluator), 255)


def _batches(runner: Runner, count: int) -> Iterator[dict]:
    dataset = runner.val_dataloader.dataset
    for index in range(min(count, len(dataset))):
        yield pseudo_collate([dataset[index]])


def _inverse(runner: Runner) -> dict[str, dict]:
    """Block -> the measurements of CertificateHook while the split was validated."""
    found: dict[str, dict] = {}
    for key, values in runner.message_hub.log_scalars.items():
        if key.startswith('certificate/'):
            name, measure = key.removeprefix('certificate/').rsplit('/', 1)
            found.setdefault(name, {})[measure] = _plain(values.current())
    return found


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


if __name__ == '__main__':
    end_with_launcher()
    evaluate(Path(sys.argv[1]))
