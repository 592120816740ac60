"""Records the attention centres and widths of quadratic encodings while a model trains."""

from __future__ import annotations

import json
import math
from pathlib import Path

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmseg.registry import HOOKS
from torch import nn

from ...layers.checks import check_count
from ...layers.convolution.encoding import QuadraticEncoding
from ..atomic_backend import AtomicLocalBackend
from ..forgiving_logs import forgiven

FILE = 'attention_centres.jsonl'


@HOOKS.register_module()
class AttentionCentreHook(Hook):
    """Write a line to ``attention_centres.jsonl`` in the work directory every ``interval`` iterations.

    A line is ``{"iteration": n, "layers": {name: {"centre": (heads, 2), "precision": (heads, 2, 2)}}}``, in pixels and
    1 / pixel^2; the precision is the inverse covariance of the weights. A resumed run continues the file. A model
    without a quadratic encoding writes no file.

    Args:
        interval: training iterations between two lines; there is also a line at the start and one at the end.
    """

    priority = 'NORMAL'

    def __init__(self, interval: int = 500):
        check_count('interval', interval)
        self.interval = interval

    @master_only
    def before_train(self, runner) -> None:
        """Write the first line, after lines that an earlier run wrote from this iteration on are removed."""
        path = Path(runner.work_dir) / FILE
        if path.is_file():
            kept = [line for line in path.read_text().splitlines(True) if _iteration(line) < runner.iter]
            with forgiven(FILE):
                AtomicLocalBackend().put_text(''.join(kept), path)
        self._write(runner, runner.iter)

    @master_only
    def after_train_iter(
        self, runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Write a line if the iteration is due."""
        if self.every_n_train_iters(runner, self.interval) or runner.iter + 1 == runner.max_iters:
            self._write(runner, runner.iter + 1)

    @staticmethod
    def _write(runner, iteration: int) -> None:
        layers = quadratic_encodings(runner.model.module if is_model_wrapper(runner.model) else runner.model)
        if layers:
            line = dict(
                iteration=iteration,
                layers={
                    name: dict(centre=encoding.centre.tolist(), precision=encoding.precision().tolist())
                    for name, encoding in layers.items()
                },
            )
            with forgiven(FILE), open(Path(runner.work_dir) / FILE, 'a', encoding='utf-8') as file:
                file.write(json.dumps(line) + '\n')


def _iteration(line: str) -> float:
    """The iteration of a line; infinite for a partly written line of a killed run."""
    try:
        return json.loads(line)['iteration']
    except ValueError:
        return math.inf


def quadratic_encodings(model: nn.Module) -> dict[str, QuadraticEncoding]:
    """The quadratic encodings of a model by name of the module."""
    return {name: module for name, module in model.named_modules() if isinstance(module, QuadraticEncoding)}
