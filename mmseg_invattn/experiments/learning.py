"""The number of iterations after which the demo task is learned, for every form and mode of attention."""

from __future__ import annotations

import copy
import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner import Runner
from torch import nn

from ..engine.atomic_backend import AtomicLocalBackend
from ..engine.launch import build_runner

UNUSED = ('checkpoint', 'visualization', 'certificate')  # hooks whose output is not needed here


@dataclass(frozen=True)
class Setting:
    """Settings of one training.

    Attributes:
        form: form of the attention.
        mode: mode of the attention.
        seed: seed of the run.
        precision: ``'float32'``, or ``'autocast'``: the whole network under autocast in bfloat16, including the branch
            of the attention.
    """

    form: str
    mode: str
    seed: int
    precision: str = 'float32'


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Training under autocast in bfloat16, also on a CPU; MMEngine's ``AmpOptimWrapper`` needs a GPU."""

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, torch.bfloat16):
            yield


class Reached(Hook):
    """Records the mIoU of each validation and stops the training when it reaches a level."""

    def __init__(self, level: float):
        self.level, self.curve = level, []

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        assert metrics is not None
        self.curve.append((runner.iter, round(float(metrics['mIoU']), 2)))
        runner.train_loop.stop_training = self.curve[-1][1] >= self.level


def learning_curve(cfg: Config, setting: Setting, every: int, level: float) -> list[tuple[int, float]]:
    """Trains until the task is learned, or to the end of the config.

    Args:
        cfg: config with a decode head of class :class:`~mmseg_invattn.models.heads.attention_head.AttentionHead`;
            attention and seed are replaced by those of the setting.
        setting: settings of the training.
        every: iterations between two evaluations.
        level: mIoU in per cent that counts as learned.

    Returns:
        (iteration, mIoU) of each evaluation.
    """
    cfg = copy.deepcopy(cfg)
    cfg.model.decode_head.attention = dict(form=setting.form, mode=setting.mode)
    if setting.precision == 'autocast':
        cfg.optim_wrapper.type = 'BFloat16OptimWrapper'
        if setting.form != 'none':  # 'none' follows autocast in any case
            cfg.model.decode_head.attention.precision = 'autocast'
    cfg.merge_from_dict({'randomness.seed': setting.seed, 'train_cfg.val_interval': every, 'log_level': 'ERROR'})
    cfg.default_hooks.update(dict.fromkeys(UNUSED))
    cfg.experiment_name = '_'.join(str(value) for value in asdict(setting).values())
    cfg.visualizer.update(name=cfg.experiment_name, vis_backends=None)  # MMEngine looks visualizers up by name
    hook = Reached(level)
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir = folder
        runner = build_runner(cfg, 'training')
        runner.register_hook(hook)
        runner.train()
    return hook.curve


def read_curves(path: Path) -> dict[Setting, list]:
    """Curves of earlier runs; empty if there is no file."""
    entries = json.loads(path.read_text(encoding='utf-8')) if path.is_file() else []
    return {Setting(**{k: v for k, v in entry.items() if k != 'miou'}): entry['miou'] for entry in entries}


def write_curves(path: Path, curves: dict[Setting, list]) -> None:
    lines = [json.dumps(asdict(setting) | dict(miou=curve)) for setting, curve in curves.items()]
    AtomicLocalBackend().put_text('[\n' + ',\n'.join(lines) + '\n]\n', path)


def table(
    curves: dict[Setting, list], forms: Sequence[str], modes: Sequence[str], level: float, precision: str = 'float32'
) -> str:
    """A table with the median number of iterations over the seeds, and how many of the seeds reached the level.

    A seed that did not reach the level counts as infinitely many iterations; an infinite median is shown as a dash.
    """
    lines = ['| mode | ' + ' | '.join(forms) + ' |', '| --- |' + ' ---: |' * len(forms)]
    for mode in modes:
        cells = []
        for form in forms:
            wanted = form, mode, precision
            own = [curve for key, curve in curves.items() if (key.form, key.mode, key.precision) == wanted]
            after = [next((step for step, miou in curve if miou >= level), math.inf) for curve in own]
            middle = median(after) if after else math.inf
            reached = sum(value < math.inf for value in after)
            cells.append(
                f'{middle:.0f} ({reached} of {len(own)})' if middle < math.inf else f'- ({reached} of {len(own)})'
            )
        lines.append(f'| `{mode}` | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)
