"""Evaluate a checkpoint on the test data of a config.

The arguments are those of MMSegmentation's tools/test.py.
"""

from __future__ import annotations

import argparse
import inspect
import os.path as osp

from mmengine.config import Config

from .arguments import add_attention_arguments, add_model_arguments, add_run_arguments, load_config
from .output import add_output_arguments, refuse_existing
from .parser import CommandParser


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser(__doc__, 'CONFIG CHECKPOINT', 'CONFIG CHECKPOINT --show-dir painted --tta')
    add_model_arguments(parser)
    add_output_arguments(parser, 'folder for the predictions, one PNG an image; default: none', folder=True)
    parser.add_argument('--show', action='store_true', help='show the painted predictions in a window')
    parser.add_argument('--show-dir', metavar='DIR', help='folder for the painted predictions; default: none')
    parser.add_argument(
        '--wait-time', type=float, default=2, metavar='SECONDS', help='time that --show shows an image for'
    )
    parser.add_argument('--tta', action='store_true', help="test-time augmentation, by the config's tta_pipeline")
    add_attention_arguments(parser)
    add_run_arguments(parser)
    return parser.parse_args(arguments)


def enable_visualization(cfg: Config, args: argparse.Namespace) -> None:
    """Paint every prediction, in a window or into a folder."""
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None or cfg.get('visualizer') is None:
        raise ValueError(
            "--show and --show-dir need default_hooks=dict(visualization=dict(type='SegVisualizationHook'"
            ')) and a visualizer in the config, as in configs/_base_/default_runtime.py'
        )
    hook.draw = True
    hook.interval = 1  # every image: some versions of the hook paint each 50th only
    if args.show:
        hook.show, hook.wait_time = True, args.wait_time
    if args.show_dir:
        cfg.visualizer.save_dir = args.show_dir


def enable_tta(cfg: Config) -> None:
    """Swap in the test-time augmentation's pipeline, and the model that averages its predictions."""
    from ..datasets.leaves import leaf_configs

    if cfg.get('tta_pipeline') is None:
        raise ValueError('--tta needs a tta_pipeline in the config; configs/_base_/datasets shows one')
    for dataset in leaf_configs(cfg.test_dataloader.dataset):
        dataset['pipeline'] = cfg.tta_pipeline
    cfg.model = dict(cfg.get('tta_model') or dict(type='SegTTAModel'), module=cfg.model)


def write_predictions(cfg: Config, folder: str) -> None:
    """Have the evaluators write their predictions; with several that can, each gets a folder of its own."""
    from mmseg.registry import METRICS

    evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, (list, tuple)) else [cfg.test_evaluator]
    arguments = [inspect.signature(METRICS.get(metric.type).__init__).parameters for metric in evaluators]
    writers = [pair for pair in zip(evaluators, arguments, strict=True) if 'output_dir' in pair[1]]
    if not writers:
        names = ', '.join(metric.type for metric in evaluators)
        raise ValueError(
            f'--out: no evaluator of this config writes predictions ({names}); IoUMetric does, add '
            "dict(type='IoUMetric', iou_metrics=['mIoU']) to test_evaluator"
        )
    for number, (metric, names) in enumerate(writers):
        metric.output_dir = folder if len(writers) == 1 else osp.join(folder, f'{number}_{metric.type}')
        if 'keep_results' in names:
            metric.keep_results = True


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)

    from ..engine.launch import build_test_runner, check_checkpoint_file, leave_distributed

    check_checkpoint_file(args.checkpoint)
    refuse_existing(filter(None, (args.out, args.show_dir)), args.overwrite)
    cfg = load_config(args, ('test',))
    if args.show or args.show_dir:
        enable_visualization(cfg, args)
    if args.tta:
        enable_tta(cfg)
    if args.out is not None:
        write_predictions(cfg, str(args.out))
    build_test_runner(cfg, args.checkpoint).test()
    leave_distributed()
