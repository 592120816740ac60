"""Arguments that several subcommands share, and the functions that read the config and the model they name."""

from __future__ import annotations

import os
import os.path as osp
from argparse import ArgumentError, ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmengine.config import Config, DictAction

from ..choices import FORMS, MODES
from ..compat import prepare_distributed

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')


class OptionsAction(DictAction):
    """MMEngine's ``KEY=VALUE`` options; anything else is an error that shows the usage."""

    def __call__(self, parser: ArgumentParser, namespace: Namespace, values: Any, option_string: str | None = None):
        for text in values:
            if not text.partition('=')[0] or '=' not in text:
                raise ArgumentError(self, f'{text!r} is not of the form KEY=VALUE, such as train_cfg.max_iters=100')
        try:
            super().__call__(parser, namespace, values, option_string)
        except AssertionError as error:  # unbalanced brackets
            raise ArgumentError(self, f'{" ".join(values)}: {error}') from error
        except RecursionError as error:  # dict(...) or {...} inside a list
            raise ArgumentError(
                self,
                f'{" ".join(values)}: lists and tuples here hold numbers and words. Set the entries of a dict one by '
                'one, such as train_pipeline.0.type=LoadImageFromFile, or write the value into a config file',
            ) from error


def add_cfg_options(parser: ArgumentParser) -> None:
    """Add ``--cfg-options``, for :func:`read_config`."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=OptionsAction,
        metavar='KEY=VALUE',
        help='change settings of the config: train_cfg.max_iters=100; an element of a list: train_pipeline.0.type=X; a '
        'whole list: key="[a,b]" or, nested, key="[(a,b),(c,d)]", without spaces. The key must exist; for a new key, '
        'put a plus before it: +model.backbone.with_cp=True; default: none',
    )


def _add_config(parser: ArgumentParser, more: str = '', **settings: Any) -> None:
    parser.add_argument(
        'config',
        metavar='CONFIG',
        help=f"config file, or one of the project's configs, with its path below configs/{more}",
        **settings,
    )


def add_config_arguments(parser: ArgumentParser) -> None:
    """Adds ``config`` and ``--cfg-options``, for :func:`read_config`."""
    _add_config(parser)
    add_cfg_options(parser)


def add_model_arguments(parser: ArgumentParser, alone: bool = False) -> None:
    """Adds ``config``, ``checkpoint`` and ``--cfg-options``, for a trained model.

    Args:
        parser: Gets them.
        alone: Whether the config may be left out; then the one in the checkpoint is used.
    """
    _add_config(
        parser,
        **(
            dict(more='; without it, the config in the checkpoint, whose values are read and not run', nargs='?')
            if alone
            else {}
        ),
    )
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='checkpoint file or URL')
    add_cfg_options(parser)


def add_loading_arguments(parser: ArgumentParser) -> None:
    """Adds ``--device`` and ``--trust-checkpoint``, for tools that load a model but do not train."""
    parser.add_argument('--device', metavar='DEVICE', help='cpu, cuda or cuda:1; default: the GPU if there is one')
    add_trust_argument(parser)


def add_attention_arguments(parser: ArgumentParser) -> None:
    """Adds ``--form`` and ``--mode``, for :func:`read_config`: the attention of a flow or a reconstruction."""
    where = 'of the attention, for configs in configs/flow and configs/reconstruction'
    parser.add_argument('--form', choices=FORMS, help=f'form {where} ("none": no attention); default: as in the config')
    parser.add_argument(
        '--mode', choices=MODES, help=f'mode {where}; default: as in the config, or embedded_gaussian if it has none'
    )


def add_trust_argument(parser: ArgumentParser) -> None:
    """Adds ``--trust-checkpoint``."""
    parser.add_argument(
        '--trust-checkpoint', action='store_true', help='load a checkpoint even if that runs code which it contains'
    )


def add_shape_argument(parser: ArgumentParser, what: str) -> None:
    """Adds ``--shape H W``; ``what`` is its help."""
    parser.add_argument('--shape', type=int, nargs=2, metavar=('H', 'W'), help=what)


def add_run_arguments(parser: ArgumentParser, *, work_dir: bool = True) -> None:
    """Adds the arguments that training and testing share, named as in MMSegmentation, for :func:`load_config`.

    Args:
        parser: The parser to extend.
        work_dir: Whether the user can choose the work directory.
    """
    if work_dir:
        parser.add_argument(
            '--work-dir', metavar='DIR', help='folder for logs and checkpoints; default: work_dirs/<name of the config>'
        )
    parser.add_argument(
        '--launcher', choices=LAUNCHERS, default='none', help='how the processes of a distributed run were started'
    )
    add_trust_argument(parser)
    # some launchers still pass this argument; torchrun sets LOCAL_RANK instead
    parser.add_argument(
        '--local_rank',
        '--local-rank',
        type=int,
        default=0,
        metavar='N',
        help='index of the process on its machine, set by the launcher',
    )


def read_config(args: Namespace) -> Config:
    """Reads ``args.config`` and applies ``args.form``, ``args.mode`` (if the tool has them) and ``args.cfg_options``.

    Raises:
        FileNotFoundError: There is no such config.
        ValueError: The config cannot be read, or an option is not possible.
    """
    from ..engine import config_file
    from ..experiments.attention_choice import choose_attention

    cfg = config_file.read_config(args.config)
    if _attention_chosen(args):
        choose_attention(cfg, args.form, args.mode)
    config_file.apply_options(cfg, args.cfg_options or {}, args.config)
    return cfg


def config_of_model(args: Namespace, checkpoint: str | Path | None = None) -> Config:
    """The config file that is named, or else the config in the checkpoint, ``args.checkpoint`` where None is given."""
    if args.config is not None:
        return read_config(args)
    checkpoint = args.checkpoint if checkpoint is None else checkpoint
    from ..engine.config_file import apply_options
    from ..engine.inference import config_of_checkpoint

    cfg = config_of_checkpoint(checkpoint, args.trust_checkpoint)
    apply_options(cfg, args.cfg_options or {}, f'the config in {checkpoint}')
    return cfg


def load_model(args: Namespace, device: str | None = None) -> nn.Module:
    """The model of :func:`add_model_arguments` and :func:`add_loading_arguments`, with its weights.

    Args:
        args: Parsed arguments.
        device: Device for the model; None means that of the arguments.
    """
    from ..engine.inference import init_model

    cfg = config_of_model(args)
    return init_model(cfg, args.checkpoint, device or args.device, args.trust_checkpoint)


def _attention_chosen(args: Namespace) -> bool:
    return bool(getattr(args, 'form', None) or getattr(args, 'mode', None))


def load_config(args: Namespace, splits: Sequence[str]) -> Config:
    """Reads the config, applies the command line to it, and makes checkpoints load safely from now on.

    Args:
        args: Parsed arguments, ``config`` and those of :func:`add_run_arguments`.
        splits: The dataloaders that the tool will use, out of ``train``, ``val`` and ``test``.

    Returns:
        The config, with its data folders checked, ready for a Runner.

    Raises:
        FileNotFoundError: There is no such config, or its data are missing.
        ValueError: The config cannot be read, or an option is not possible.
    """
    from ..datasets.checks import check_data_folders
    from ..engine.checkpoints import use_safe_checkpoint_loading
    from ..engine.config_checks import check_config
    from ..engine.launched import end_with_launcher

    end_with_launcher()
    cfg = read_config(args)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg.launcher = args.launcher
    cfg.work_dir = work_folder(args, cfg)
    check_config(cfg)
    check_data_folders(cfg, splits)
    use_safe_checkpoint_loading(args.trust_checkpoint)
    prepare_distributed(cfg, args.launcher)
    return cfg


def work_folder(args: Namespace, cfg: Config) -> str:
    """The work directory from the command line or the config, or else named after the config and a chosen attention."""
    from ..experiments.attention_choice import attention_name

    name = osp.splitext(osp.basename(args.config))[0] + (f'_{attention_name(cfg)}' if _attention_chosen(args) else '')
    return args.work_dir or cfg.get('work_dir') or osp.join('./work_dirs', name)
