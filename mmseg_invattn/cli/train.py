"""Train a model from a config; the arguments are those of MMSegmentation's tools/train.py."""

from __future__ import annotations

import argparse

from mmengine.config import Config
from mmengine.logging import print_log

from ..compat import mixed_precision_available
from ..engine.launch import build_runner, leave_distributed
from ..engine.resume import find_resume_checkpoint, seed_of_checkpoint
from .arguments import add_attention_arguments, add_common_arguments, load_config


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Train a segmentor')
    parser.add_argument('config', help='config file')
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
    add_common_arguments(parser)
    return parser.parse_args(arguments)


def enable_mixed_precision(cfg: Config, requested: bool) -> None:
    """Switch to MMEngine's mixed precision wrapper where that was asked for; check that it can run here."""
    kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if requested and kind != 'AmpOptimWrapper':
        if kind != 'OptimWrapper':
            raise ValueError(
                f"--amp works with optim_wrapper.type='OptimWrapper', and this config has {kind!r}; "
                'set up mixed precision in the config instead'
            )
        cfg.optim_wrapper.type = kind = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if kind == 'AmpOptimWrapper' and not mixed_precision_available():
        raise ValueError(
            'mixed precision (--amp, AmpOptimWrapper) needs a GPU, and there is none that torch can use; '
            'leave out --amp, or look at `python -m mmseg_invattn.doctor`'
        )


def enable_lr_scaling(cfg: Config) -> None:
    """Switch on the scaling of the learning rate that the config describes."""
    if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
        raise ValueError(
            '--auto-scale-lr needs the batch size that the learning rate was chosen for; add '
            'auto_scale_lr=dict(base_batch_size=16) to the config, with the right number'
        )
    cfg.auto_scale_lr.enable = True


def set_up_resume(cfg: Config, args: argparse.Namespace) -> None:
    """Choose the checkpoint to continue from and take over its seed.

    As in MMSegmentation, an explicit ``--cfg-options load_from=FILE`` names the checkpoint; a ``load_from`` in the
    config file is where the first start took its weights from, and stays that where there is nothing to resume.
    """
    cfg.resume = False
    explicit = (args.cfg_options or {}).get('load_from')
    hook = cfg.get('default_hooks', {}).get('checkpoint')
    path = explicit or find_resume_checkpoint(cfg.work_dir, hook, args.trust_checkpoint)
    if path is None:
        print_log(f'--resume: there is no checkpoint in {cfg.work_dir}; starting from scratch.', logger='current')
        return
    print_log(f'Resuming from {path}', logger='current')
    cfg.resume, cfg.load_from = True, path
    seed = seed_of_checkpoint(path, args.trust_checkpoint)
    if seed is not None:
        cfg.randomness = dict(cfg.get('randomness') or {}, seed=seed)


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)
    cfg = load_config(args, ('train', 'val'))
    enable_mixed_precision(cfg, args.amp)
    if args.auto_scale_lr:
        enable_lr_scaling(cfg)
    if args.resume or cfg.get('resume'):
        set_up_resume(cfg, args)
    build_runner(cfg).train()
    leave_distributed()
