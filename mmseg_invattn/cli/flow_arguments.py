"""The arguments that sample and interpolate share, and loading the trained flow."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from .arguments import add_attention_arguments, add_loading_arguments, add_model_arguments, read_config
from .output import add_output_arguments

if TYPE_CHECKING:
    from ..models import InvResNetFlow


def add_flow_arguments(parser: ArgumentParser, out: str) -> None:
    """Adds config, checkpoint and the options of a tool that draws one picture, ``out`` by default."""
    add_model_arguments(parser)
    add_attention_arguments(parser)
    add_output_arguments(parser, 'PNG file to write', out)
    add_loading_arguments(parser)


def load_flow(args: Namespace) -> InvResNetFlow:
    """The flow of these arguments in evaluation mode, with its config as ``cfg``.

    Raises:
        FileNotFoundError: there is no such config or checkpoint.
        ValueError: the config has another model.
        CheckpointMismatchError: the checkpoint belongs to another config.
    """
    import torch
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    from ..engine.launch import check_checkpoint_file
    from ..engine.matching import load_file
    from ..models import InvResNetFlow

    check_checkpoint_file(args.checkpoint)
    cfg = read_config(args)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    model = MODELS.build(cfg.model)
    if not isinstance(model, InvResNetFlow):
        raise ValueError(
            f'{args.config} has a {type(model).__name__}, but this tool needs a config with an InvResNetFlow, '
            'as in configs/flow'
        )
    load_file(model, str(args.checkpoint), args.trust_checkpoint)
    model.cfg = cfg
    return model.to(args.device or ('cuda:0' if torch.cuda.is_available() else 'cpu')).eval()
