"""Train a model from a config.

The arguments are those of MMSegmentation's tools/train.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import print_log

from ..compat import mixed_precision_available, type_name
from .arguments import (
    add_attention_arguments,
    add_config_arguments,
    add_run_arguments,
    load_config,
    read_config,
    work_folder,
)
from .interruption import command_line
from .output import add_overwrite_argument, refuse_existing
from .parser import CommandParser


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser(__doc__, 'CONFIG --work-dir work_dirs/run', 'CONFIG --work-dir work_dirs/run --resume')
    add_config_arguments(parser)
    parser.add_argument(
        '--resume',
        action='store_true',
        help='continue from the last whole checkpoint in the work directory, or from the one given '
        'by --cfg-options load_from=FILE',
    )
    parser.add_argument('--amp', action='store_true', help='train in mixed precision (needs a GPU)')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help="scale the learning rate to the batch size, by the config's auto_scale_lr.base_batch_size",
    )
    add_attention_arguments(parser)
    add_run_arguments(parser)
    add_overwrite_argument(parser)
    return parser.parse_args(arguments)


def enable_mixed_precision(cfg: Config, requested: bool) -> None:
    """Switch to MMEngine's mixed precision wrapper if --amp is given; check that it can run here."""
    kind = type_name(cfg.optim_wrapper) or 'OptimWrapper'
    if requested and kind != 'AmpOptimWrapper':
        if kind != 'OptimWrapper':
            raise ValueError(
                f"--amp works with optim_wrapper.type='OptimWrapper', but this config has {kind!r}; "
                'set up mixed precision in the config instead'
            )
        cfg.optim_wrapper.type = kind = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if kind == 'AmpOptimWrapper' and not mixed_precision_available():
        raise ValueError(
            'mixed precision (--amp, AmpOptimWrapper) needs a GPU, but torch can use none here; '
            'leave out --amp, or run `mmseg-invattn doctor` to see why'
        )


def enable_lr_scaling(cfg: Config) -> None:
    """Switch on the scaling of the learning rate that the config describes."""
    if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
        raise ValueError(
            '--auto-scale-lr needs the batch size for which the learning rate was chosen; add '
            'auto_scale_lr=dict(base_batch_size=16) to the config, with the right number'
        )
    cfg.auto_scale_lr.enable = True


def checkpoint_hook(cfg: Config) -> dict | None:
    """The config of the hook that writes the checkpoints."""
    return cfg.get('default_hooks', {}).get('checkpoint')


def set_up_resume(cfg: Config, args: argparse.Namespace) -> str | None:
    """Choose the checkpoint to continue from and take over its seed.

    As in MMSegmentation, ``--cfg-options load_from=FILE`` names the checkpoint. A ``load_from`` in the config file only
    gives the weights of the first start, and is used if there is nothing to resume.

    Returns:
        How far the run has come if it is finished; None if there is something left to do.

    Raises:
        ValueError: An option contradicts the restored state.
    """
    from ..engine.checkpoints import read_checkpoint
    from ..engine.progress import finished
    from ..engine.resume import find_resume_checkpoint

    cfg.resume = False
    explicit = (args.cfg_options or {}).get('load_from')
    path = explicit or find_resume_checkpoint(cfg.work_dir, checkpoint_hook(cfg), args.trust_checkpoint)
    if path is None:
        print_log(f'--resume: there is no checkpoint in {cfg.work_dir}: starting from scratch.', logger='current')
        return None
    # MMEngine loads remote checkpoints
    checkpoint = {} if '://' in path else read_checkpoint(path, 'cpu', args.trust_checkpoint, mmap=True)
    print_log(f'Resuming from {path}', logger='current')
    cfg.resume, cfg.load_from = True, path
    # The samplers are built before MMEngine restores the seed, so it must be in the config before the Runner is built.
    meta = checkpoint.get('meta') if isinstance(checkpoint, dict) else None
    seed = (meta or {}).get('seed')
    if seed is not None:
        asked = (args.cfg_options or {}).get('randomness.seed', seed)
        if asked != seed:
            raise ValueError(
                f'--resume with randomness.seed={asked}: the run of {path} has the seed {seed} and keeps it. '
                'Leave out the option, or start another run without --resume'
            )
        cfg.randomness = dict(cfg.get('randomness') or {}, seed=seed)
    return finished(path, checkpoint, cfg)


def earlier_run(cfg: Config, overwrite: bool) -> list[Path]:
    """The files of an existing run in the work directory, which the new run replaces.

    Raises:
        FileExistsError: There is such a run, but ``overwrite`` is not set.
        ValueError: The new run takes its weights from that run.
    """
    from ..engine.run_files import files_of_run, weights_of_run

    hook = checkpoint_hook(cfg)
    there = weights_of_run(cfg.work_dir, hook)
    refuse_existing(
        [path for path in there if path.name != 'last_checkpoint'] or there,
        overwrite,
        'another --work-dir, or continue that run with --resume',
    )
    there = files_of_run(cfg.work_dir, hook, cfg.filename) if overwrite else []
    start = cfg.get('load_from')
    if start and '://' not in start and any(Path(start).resolve() == path.resolve() for path in there):
        raise ValueError(f'--overwrite would remove {start}, which load_from needs: choose another --work-dir')
    return there


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)

    from mmengine.dist import is_main_process

    from ..engine.launch import build_runner, check_checkpoint_file, leave_distributed, train
    from ..engine.run_files import remove, wait_for_new_folder
    from ..engine.run_folders import folders_of_run

    cfg = load_config(args, ('train', 'val'))
    enable_mixed_precision(cfg, args.amp)
    if args.auto_scale_lr:
        enable_lr_scaling(cfg)
    with folders_of_run(cfg):
        replaced = []
        if args.resume or cfg.get('resume'):
            done = set_up_resume(cfg, args)
            if done is not None:
                if is_main_process():
                    print(
                        f'--resume: this run is finished, {done}. For a longer one raise train_cfg.max_iters or '
                        'max_epochs, and with it the end of the schedule',
                        flush=True,
                    )
                leave_distributed()
                return
        else:
            replaced = earlier_run(cfg, args.overwrite)
        if cfg.get('load_from'):
            check_checkpoint_file(cfg.load_from)
        wait_for_new_folder(replaced)
        runner = build_runner(cfg, 'training')
        if is_main_process():
            remove(replaced)  # only now, because the new run could be built
        train(runner)
        leave_distributed()


def resume_advice() -> str:
    """How to continue a training that was stopped."""
    from ..engine.resume import find_resume_checkpoint

    args = parse_args()
    cfg = read_config(args)
    folder = work_folder(args, cfg)
    path = find_resume_checkpoint(folder, checkpoint_hook(cfg), args.trust_checkpoint)
    if path is None:
        return f'No checkpoint was written to {folder} yet, so there is nothing to resume: start the command again'
    line = command_line()
    return f'To continue from {path}: {line}' + ' --resume' * (not args.resume)
