"""What tools/sample.py and tools/interpolate.py share: arguments, and the trained flow."""
from __future__ import annotations

import os.path as osp
from argparse import ArgumentParser, Namespace
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from mmseg.registry import MODELS

from ..compat import use_safe_checkpoint_loading
from ..models import InvResNetFlow


def add_flow_arguments(parser: ArgumentParser, out: str) -> None:
    """Add config, checkpoint and the options of a tool that draws one picture, ``out`` by default."""
    parser.add_argument('config', help='config file of a flow')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--out', type=Path, default=Path(out), help=f'PNG file to write, {out} by default')
    parser.add_argument('--device', help='such as cpu or cuda:0; by default the GPU where there is one')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
                        help='override settings of the config, as in tools/train.py')
    parser.add_argument('--trust-checkpoint', action='store_true',
                        help='load the checkpoint even where that runs code which it contains')


def load_flow(args: Namespace) -> InvResNetFlow:
    """The flow of these arguments in evaluation mode, with its config as ``cfg``.

    Raises:
        FileNotFoundError: there is no such config or checkpoint.
        ValueError: the config has another model.
    """
    for what, path in (('config', args.config), ('checkpoint', args.checkpoint)):
        if not osp.isfile(path):
            raise FileNotFoundError(f'{path}: there is no such {what} file')
    cfg = Config.fromfile(str(args.config))
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    model = MODELS.build(cfg.model)
    if not isinstance(model, InvResNetFlow):
        raise ValueError(f'{args.config} has a {type(model).__name__}: this tool takes a config with an InvResNetFlow, '
                         'as in configs/flow')
    use_safe_checkpoint_loading(args.trust_checkpoint)
    try:
        load_checkpoint(model, str(args.checkpoint), map_location='cpu')
    finally:
        use_safe_checkpoint_loading()
    model.cfg = cfg
    return model.to(args.device or ('cuda:0' if torch.cuda.is_available() else 'cpu')).eval()
