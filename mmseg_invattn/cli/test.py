"""Evaluate a checkpoint on the test data of a config.

The arguments are those of MMSegmentation's tools/test.py.
"""

from __future__ import annotations

import argparse

from mmengine.config import Config

from ..compat import bound_primitive_cache, type_name
from .arguments import add_attention_arguments, add_model_arguments, add_run_arguments, load_config
from .output import add_output_arguments, refuse_existing
from .parser import CommandParser
from .written_predictions import evaluators_of, leave_out_labels, use_writing_metric, write_predictions


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser(__doc__, 'CONFIG CHECKPOINT', 'CONFIG CHECKPOINT --show-dir painted --tta')
    add_model_arguments(parser)
    add_output_arguments(parser, 'folder for the predictions, one PNG per image; default: none', folder=True)
    parser.add_argument('--show', action='store_true', help='show the painted predictions in a window')
    parser.add_argument('--show-dir', metavar='DIR', help='folder for the painted predictions; default: none')
    parser.add_argument(
        '--wait-time', type=float, default=2, metavar='SECONDS', help='time for which --show shows each image'
    )
    parser.add_argument('--tta', action='store_true', help="test-time augmentation with the config's tta_pipeline")
    add_attention_arguments(parser)
    add_run_arguments(parser)
    return parser.parse_args(arguments)


def enable_visualization(cfg: Config, args: argparse.Namespace) -> None:
    """Set up the hook that paints every prediction, in a window or into a folder."""
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None or cfg.get('visualizer') is None:
        raise ValueError(
            "--show and --show-dir need default_hooks=dict(visualization=dict(type='SegVisualizationHook'"
            ')) and a visualizer in the config, as in configs/_base_/default_runtime.py'
        )
    if type_name(hook) == 'SegVisualizationHook':  # this class decodes every image as 8-bit colour
        hook.type = 'TestedPictureHook'
    hook.draw = True
    hook.interval = 1  # every image, because some versions of the hook paint only every 50th
    if args.show:
        hook.show, hook.wait_time = True, args.wait_time
    if args.show_dir:
        cfg.visualizer.save_dir = args.show_dir


def enable_tta(cfg: Config) -> None:
    """Use the pipeline of test-time augmentation, and the model that averages its predictions."""
    from ..datasets.leaves import leaf_configs

    if cfg.get('tta_pipeline') is None:
        raise ValueError('--tta needs a tta_pipeline in the config; configs/_base_/datasets shows one')
    for dataset in leaf_configs(cfg.test_dataloader.dataset):
        dataset['pipeline'] = cfg.tta_pipeline
    model = dict(cfg.get('tta_model') or dict(type='MeanTTAModel'))
    if type_name(model) == 'SegTTAModel':  # this class treats the probabilities of a single channel as logits
        model['type'] = 'MeanTTAModel'
    cfg.model = dict(model, module=cfg.model)


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)
    bound_primitive_cache()

    from ..engine.launch import build_test_runner, check_checkpoint_file, leave_distributed

    check_checkpoint_file(args.checkpoint)
    refuse_existing(filter(None, (args.out, args.show_dir)), args.overwrite)
    cfg = load_config(args, ('test',))
    if args.show or args.show_dir:
        enable_visualization(cfg, args)
    if args.tta:
        enable_tta(cfg)
    unlabelled = leave_out_labels(cfg)
    if args.out is not None:
        write_predictions(cfg, str(args.out))
    if unlabelled or any(metric.get('output_dir') for metric in evaluators_of(cfg)):
        use_writing_metric(cfg)
    build_test_runner(cfg, args.checkpoint).test()
    leave_distributed()
