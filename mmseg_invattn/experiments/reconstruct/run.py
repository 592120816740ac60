"""One reconstruction experiment: train, run the test images forward and back, write the results."""

import csv
import json
import statistics
import time
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.model import is_model_wrapper
from torch import Tensor

from ...compat import type_name
from ...datasets.generative import DequantisedImages, read_images
from ...engine.atomic_backend import AtomicLocalBackend
from ...engine.launch import build_runner
from ...layers import PaperAttention2d
from ...models import InvReconstruction
from .convergence import plain_errors, plot_convergence, solver_errors
from .metric import NOT_RECOVERED
from .table import RESULT

CURVE_IMAGES = 64


def run_reconstruction(cfg: Config, out: Path, dataset: str) -> dict:
    """Runs a config of configs/reconstruction.

    Args:
        cfg: the config, as :func:`~mmseg_invattn.cli.arguments.load_config` returns it.
        out: folder for result.json and the pictures.
        dataset: name of the data set, for the table.

    Returns:
        The content of result.json: the metrics, the settings, the seconds of training and test, and the median seconds
        of a training iteration.

    Raises:
        ValueError: the config has another model.
    """
    if type_name(cfg.model) != 'InvReconstruction':
        raise ValueError(
            f'model.type is {type_name(cfg.model)}, but a reconstruction needs InvReconstruction: use a config from '
            'configs/reconstruction'
        )
    cfg.test_evaluator.output_dir = str(out)
    runner = build_runner(cfg, 'training')
    start = time.perf_counter()
    runner.train()
    trained = time.perf_counter()
    metrics = runner.test()
    tested = time.perf_counter()
    result = {key.removeprefix('reconstruction/'): value for key, value in metrics.items()}
    result |= dict(
        dataset=dataset,
        form=cfg.model.attention.form,
        mode=cfg.model.attention.mode,
        epochs=runner.max_iters / cfg.epoch_length,
        train_seconds=trained - start,
        test_seconds=tested - trained,
        iteration_seconds=statistics.median(runner.message_hub.get_scalar('train/time').data[0].tolist()),
    )
    if is_main_process():
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        dataset = runner.test_dataloader.dataset
        draw_convergence(model, read_images(dataset, range(min(CURVE_IMAGES, len(dataset)))), out)
        if cfg.model.attention.form == 'paper':
            result |= try_plain_iteration(model, dataset, out)
        AtomicLocalBackend().put_text(json.dumps(result, indent=2), out / RESULT)
    return result


def draw_convergence(model: InvReconstruction, x: Tensor, out: Path) -> None:
    """Draws ``convergence.png`` for some images; for form ``paper`` with the iteration of the paper as well."""
    squeeze, block = model.flow
    x = x.to(model.target.device)
    curves = {'accelerated': solver_errors(model.flow, x)}
    if isinstance(block, PaperAttention2d):
        curves['plain, as published'] = plain_errors(block, squeeze(x))
    plot_convergence(out / 'convergence.png', curves)


def try_plain_iteration(model: InvReconstruction, dataset: DequantisedImages, out: Path) -> dict[str, int]:
    """Runs 100 steps of the paper's iteration on the images that the accelerated inverse did not recover.

    Returns:
        ``plain_images``, the number of these images, and ``plain_recovered``, how many of them were recovered.
    """
    with open(out / 'per_image.csv', encoding='utf-8') as file:
        lost = [int(row['image']) for row in csv.DictReader(file) if float(row['max_error']) > NOT_RECOVERED]
    squeeze, block = model.flow
    recovered = 0
    for k in range(0, len(lost), CURVE_IMAGES):
        x = read_images(dataset, lost[k : k + CURVE_IMAGES]).to(model.target.device)
        recovered += int((plain_errors(block, squeeze(x), (100,))[0] <= NOT_RECOVERED).sum())
    return dict(plain_images=len(lost), plain_recovered=recovered)
