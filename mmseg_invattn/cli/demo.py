"""The whole story on demo data: train three models, evaluate them, invert the attention of one, and show it all.

The class of the shapes in the demo images depends on the colour of a marker further away than the network without
attention can see. What is trained already is reused.
"""

import argparse
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import matplotlib.pyplot as plt
import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmseg.evaluation import IoUMetric
from prettytable import PrettyTable
from torch import nn

from ..engine.inference import init_model
from ..engine.scalars import find_logs, read_entries
from ..layers import constant_weights
from ..ops import max_token_norm
from ..paths import find_config
from .convert import context_shapes
from .interruption import command_line
from .output import add_output_arguments, refuse_existing
from .parser import CommandParser

CONFIGS = {
    'no attention': 'fcn_plainconv_1xb8-1k_context-shapes-48x96.py',
    'non-local': 'nonlocal_plainconv_1xb8-1k_context-shapes-48x96.py',
    'invertible': 'invnl_plainconv_1xb8-1k_context-shapes-48x96.py',
}
PICTURES = 12


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser(__doc__, '', '--iters 200 --out work_dirs/quick')
    parser.add_argument(
        '--iters', type=int, metavar='N', help='training iterations of each model; default: as in the configs'
    )
    add_output_arguments(parser, 'folder of the runs, the table and the pictures', 'work_dirs/demo', folder=True)
    args = parser.parse_args(arguments)
    if args.iters is not None and args.iters < 1:
        parser.error(f'--iters is {args.iters}, but training needs at least 1 iteration')
    return args


def load_config(name: str, iters: int | None) -> Config:
    cfg = Config.fromfile(find_config(f'demo/{CONFIGS[name]}'))
    if iters is not None:
        for scheduler in cfg.param_scheduler:  # the same course in fewer or more iterations
            for edge in ('begin', 'end'):
                scheduler[edge] = iters * scheduler[edge] // cfg.train_cfg.max_iters
        cfg.param_scheduler = [s for s in cfg.param_scheduler if s.end > s.begin]
        cfg.train_cfg.max_iters = cfg.train_cfg.val_interval = iters
        cfg.default_hooks.logger.interval = min(iters, cfg.default_hooks.logger.interval)  # the table reads the log
    return cfg


def train(name: str, cfg: Config, work_dir: Path, overwrite: bool) -> Path:
    """Trains in a process of its own, or finds that this very config is trained already; returns the checkpoint.

    Raises:
        SystemExit: the training failed, and has said why.
    """
    checkpoint = work_dir / f'iter_{cfg.train_cfg.max_iters}.pth'
    trained, fingerprint = work_dir / 'trained_config.txt', hashlib.sha256(cfg.pretty_text.encode()).hexdigest()
    same = trained.is_file() and trained.read_text() == fingerprint
    if same and checkpoint.is_file():
        print(f'\n== {name}: reusing {checkpoint}', flush=True)
        return checkpoint
    if not same:
        refuse_existing([work_dir], overwrite, 'another --out, or the --iters that it was made with')
    print(f'\n== {name}: training', flush=True)
    work_dir.mkdir(parents=True, exist_ok=True)
    trained.write_text(fingerprint)
    cfg.dump(work_dir / 'config.py')
    command = [
        sys.executable,
        '-m',
        'mmseg_invattn.cli',
        'train',
        str(work_dir / 'config.py'),
        '--work-dir',
        str(work_dir),
    ]
    # The network is small: on a CPU that does other things as well, threads that wait for each other cost far more
    # than they gain.
    command += ['--resume'] if same else ['--overwrite']
    done = subprocess.run(command, env={'OMP_NUM_THREADS': '1'} | os.environ)
    if done.returncode:
        raise SystemExit(done.returncode)
    return checkpoint


def seconds_per_iteration(work_dir: Path) -> float:
    """Median over the log of the newest run, data loading included."""
    newest = find_logs(work_dir)[-1:]
    return median(entry['time'] for entry in read_entries(newest) if 'loss' in entry)


@torch.no_grad()
def evaluate(model: nn.Module, cfg: Config) -> dict:
    """Predictions of the validation split, their IoU by ``IoUMetric``, and the inverse where there is one."""
    loader = Runner.build_dataloader(cfg.test_dataloader)
    classes = loader.dataset.metainfo['classes']
    areas, images, truths, predictions, inverse = [], [], [], [], []
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
        # The worst over all images of: error, error relative to the largest token, certified bound, evaluations.
        error, relative, bound, iterations = values.amax(1).tolist()
        result |= dict(
            lipschitz=head.attention.lipschitz_bound(),
            error=error,
            relative=relative,
            bound=bound,
            iterations=int(iterations),
            within=bool((values[0] <= values[2]).all()),
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


def draw(results: dict[str, dict], folder: Path) -> None:
    """One picture for each of the first validation images: input, ground truth, predictions."""
    folder.mkdir(parents=True, exist_ok=True)
    first = next(iter(results.values()))
    palette = np.array(first['palette'], dtype=np.uint8)
    columns = {'input': first['images'], 'ground truth': [palette[truth] for truth in first['truths']]}
    columns |= {name: [palette[label] for label in r['predictions']] for name, r in results.items()}
    for start, count, name in [*((i, 1, f'{i:04d}.png') for i in range(PICTURES)), (0, 4, 'overview.png')]:
        count = min(count, len(first['images']) - start)
        if count < 1:
            break
        figure, axes = plt.subplots(
            count, len(columns), figsize=(2.6 * len(columns), 1.5 * count + 0.2), squeeze=False, layout='constrained'
        )
        for column, (title, images) in zip(axes.T, columns.items(), strict=True):
            column[0].set_title(title, fontsize=10)
            for axis, image in zip(column, images[start : start + count], strict=True):
                axis.imshow(image, interpolation='nearest')
                axis.set_axis_off()
        figure.savefig(folder / name, dpi=110)
        plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)
    context_shapes.main(['--overwrite'] if args.overwrite else [])
    plt.switch_backend('agg')
    results = {}
    for name in CONFIGS:
        cfg, work_dir = load_config(name, args.iters), args.out / CONFIGS[name].split('_')[0]
        checkpoint = train(name, cfg, work_dir, args.overwrite)
        model = init_model(str(work_dir / 'config.py'), str(checkpoint))
        print(f'== {name}: evaluating' + ' and inverting' * hasattr(model.decode_head, 'invert_attention'), flush=True)
        with constant_weights(model):
            results[name] = evaluate(model, cfg)
        results[name] |= dict(
            seconds=seconds_per_iteration(work_dir), parameters=sum(p.numel() for p in model.parameters())
        )
    table = make_table(results)
    pictures = args.out / 'pictures'
    draw(results, pictures)
    (args.out / 'table.txt').write_text(f'{table}\n')
    print(f'\n{table}\nTable: {args.out / "table.txt"}, pictures: {pictures}')


def resume_advice() -> str:
    """How to go on with a demo that was stopped."""
    return f'What is trained is reused by the same command: {command_line()}'
