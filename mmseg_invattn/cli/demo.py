"""Train three models on demo data, evaluate them, invert the attention of one, and write a table and pictures.

The class of the shapes in the demo images depends on the colour of a marker that is outside the receptive field of the
network without attention. Models that are already trained are reused.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from pathlib import Path

from mmengine.config import Config

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


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser(__doc__, '', '--iters 200 --out work_dirs/quick')
    parser.add_argument(
        '--iters', type=int, metavar='N', help='training iterations of each model; default: as in the configs'
    )
    add_output_arguments(parser, 'folder for the runs, the table and the pictures', 'work_dirs/demo', folder=True)
    args = parser.parse_args(arguments)
    if args.iters is not None and args.iters < 1:
        parser.error(f'--iters is {args.iters}, but training needs at least 1 iteration')
    return args


def load_config(name: str, iters: int | None) -> Config:
    cfg = Config.fromfile(find_config(f'demo/{CONFIGS[name]}'))
    if iters is not None:
        for scheduler in cfg.param_scheduler:  # the same schedule, scaled to the number of iterations
            for edge in ('begin', 'end'):
                scheduler[edge] = iters * scheduler[edge] // cfg.train_cfg.max_iters
        cfg.param_scheduler = [s for s in cfg.param_scheduler if s.end > s.begin]
        cfg.train_cfg.max_iters = cfg.train_cfg.val_interval = iters
        cfg.default_hooks.logger.interval = min(iters, cfg.default_hooks.logger.interval)  # the table reads the log
    return cfg


def train(name: str, cfg: Config, work_dir: Path, overwrite: bool) -> Path:
    """Trains in a separate process, unless exactly this config is already trained; returns the checkpoint.

    Raises:
        SystemExit: the training failed, and has printed the reason.
    """
    from ..engine.launched import PARENT

    checkpoint = work_dir / f'iter_{cfg.train_cfg.max_iters}.pth'
    trained, fingerprint = work_dir / 'trained_config.txt', hashlib.sha256(cfg.pretty_text.encode()).hexdigest()
    same = trained.is_file() and trained.read_text() == fingerprint
    if same and checkpoint.is_file():
        print(f'\n== {name}: reusing {checkpoint}', flush=True)
        return checkpoint
    if not same:
        refuse_existing([work_dir], overwrite, 'another --out, or the --iters with which it was trained')
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
    # One thread, because the network is small: on a CPU with other load, threads that wait for each other cost far more
    # time than they save.
    command += ['--resume'] if same else ['--overwrite']
    environment = {'OMP_NUM_THREADS': '1'} | os.environ | {PARENT: str(os.getpid())}  # it ends where this one is killed
    done = subprocess.run(command, env=environment)
    if done.returncode:
        raise SystemExit(done.returncode)
    return checkpoint


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)

    from ..engine.folder_lock import locked

    with locked(args.out, '--out'):
        tell(args)


def tell(args: argparse.Namespace) -> None:
    """Train, evaluate and draw what is not there yet."""
    from ..engine.atomic_backend import AtomicLocalBackend
    from ..engine.inference import init_model
    from ..experiments.demo import evaluate, make_table, seconds_per_iteration
    from ..experiments.demo_pictures import draw
    from ..layers import constant_weights

    context_shapes.main(['--overwrite'] if args.overwrite else [])
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
    AtomicLocalBackend().put_text(f'{table}\n', args.out / 'table.txt')
    print(f'\n{table}\nTable: {args.out / "table.txt"}, pictures: {pictures}')


def resume_advice() -> str:
    """How to continue a demo that was stopped."""
    return f'To continue, run the same command; it reuses the models that are trained: {command_line()}'
