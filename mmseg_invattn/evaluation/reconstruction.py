"""One reconstruction experiment: train, take the test images forward and back, write what came out."""
import json
import statistics
import time
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.model import is_model_wrapper

from ..engine.cli import build_runner
from .convergence import plain_errors, plot_convergence, solver_errors
from .reconstruction_metric import NOT_RECOVERED
from .reconstruction_table import RESULT


def run_reconstruction(cfg: Config, out: Path, dataset: str) -> dict:
    """Runs a config of configs/reconstruction.

    Args:
        cfg: the config, as :func:`~mmseg_invattn.engine.cli.load_config` returns it.
        out: folder for result.json and the pictures.
        dataset: its name, for the table.

    Returns:
        What result.json holds: the metrics, what was run, the seconds of training and of the test, and the median of
        the training iterations.
    """
    cfg.test_evaluator.output_dir = str(out)
    runner = build_runner(cfg)
    start = time.perf_counter()
    runner.train()
    trained = time.perf_counter()
    metrics = runner.test()
    tested = time.perf_counter()
    result = {key.removeprefix('reconstruction/'): value for key, value in metrics.items()}
    result |= dict(dataset=dataset, form=cfg.model.attention.form, mode=cfg.model.attention.mode,
                   epochs=runner.max_iters / cfg.epoch_length, train_seconds=trained - start,
                   test_seconds=tested - trained,
                   iteration_seconds=statistics.median(runner.message_hub.get_scalar('train/time').data[0].tolist()))
    if is_main_process():
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        batch = next(iter(runner.test_dataloader))
        result |= draw_convergence(model, batch['inputs'].to(next(model.parameters()).device), out)
        (out / RESULT).write_text(json.dumps(result, indent=2), encoding='utf-8')
    return result


@torch.no_grad()
def draw_convergence(model: torch.nn.Module, x: torch.Tensor, out: Path) -> dict:
    """``convergence.png`` of some images; in form ``paper`` also of the paper's own iteration.

    Returns:
        For form ``paper``, what 100 steps of that iteration reach: ``plain_max_error``, ``plain_not_recovered`` and the
        number of images; otherwise nothing.
    """
    squeeze, block = model.flow
    curves = {'accelerated': solver_errors(model.flow, x)}
    if block.form != 'paper':
        plot_convergence(out / 'convergence.png', curves)
        return {}
    curves['plain, as published'] = plain_errors(block, squeeze(x))
    plot_convergence(out / 'convergence.png', curves)
    last = curves['plain, as published'][-1]
    return dict(plain_max_error=float(last.max()), plain_not_recovered=int((last > NOT_RECOVERED).sum()),
                plain_images=len(last))
