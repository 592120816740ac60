"""What subcommands share: arguments, and the config and the model that they stand for."""

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
    from torch import nn

LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')


class OptionsAction(DictAction):
    """MMEngine's ``KEY=VALUE``; what is none of these ends with the usage."""

    def __call__(self, parser: ArgumentParser, namespace: Namespace, values: Any, option_string: str | None = None):
        for text in values:
            if not text.partition('=')[0] or '=' not in text:
                raise ArgumentError(self, f'{text!r} is no KEY=VALUE, such as train_cfg.max_iters=100')
        try:
            super().__call__(parser, namespace, values, option_string)
        except AssertionError as error:  # of brackets
            raise ArgumentError(self, f'{" ".join(values)}: {error}') from error


def add_cfg_options(parser: ArgumentParser) -> None:
    """Add ``--cfg-options``, for :func:`read_config`."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=OptionsAction,
        metavar='KEY=VALUE',
        help='change settings of the config: train_cfg.max_iters=100, in a list train_pipeline.0.type=X, a whole list '
        'key="[a,b]", nested key="[(a,b),(c,d)]" without blanks. The config must have the key; a new one takes a '
        'plus: +model.backbone.with_cp=True; default: none',
    )


def _add_config(parser: ArgumentParser, more: str = '', **settings: Any) -> None:
    parser.add_argument(
        'config',
        metavar='CONFIG',
        help=f"config file, or one of the project's own, named below configs{more}",
        **settings,
    )


def add_config_arguments(parser: ArgumentParser) -> None:
    """Add ``config`` and ``--cfg-options``, for :func:`read_config`."""
    _add_config(parser)
    add_cfg_options(parser)


def add_model_arguments(parser: ArgumentParser, alone: bool = False) -> None:
    """Add ``config``, ``checkpoint`` and ``--cfg-options``: a trained model.

    Args:
        parser: Gets them.
        alone: Whether the checkpoint may stand alone, with the config that it carries.
    """
    _add_config(
        parser,
        **(
            dict(more='; without it, the one in the checkpoint, whose values are read and not run', nargs='?')
            if alone
            else {}
        ),
    )
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='checkpoint file or URL')
    add_cfg_options(parser)


def add_loading_arguments(parser: ArgumentParser) -> None:
    """Add ``--device`` and ``--trust-checkpoint``: the arguments of tools that load a model and train none."""
    parser.add_argument('--device', metavar='DEVICE', help='cpu, cuda or cuda:1; default: the GPU where there is one')
    add_trust_argument(parser)


def add_attention_arguments(parser: ArgumentParser) -> None:
    """Add ``--form`` and ``--mode``, for :func:`read_config`: the attention of a flow or a reconstruction."""
    where = 'of the attention, in a config of configs/flow or configs/reconstruction'
    parser.add_argument(
        '--form', choices=FORMS, help=f"form {where}, where none is without attention; default: the config's"
    )
    parser.add_argument(
        '--mode', choices=MODES, help=f"mode {where}; default: the config's, embedded_gaussian where it has none"
    )


def add_trust_argument(parser: ArgumentParser) -> None:
    """Add ``--trust-checkpoint``."""
    parser.add_argument(
        '--trust-checkpoint', action='store_true', help='load a checkpoint even where that runs code which it contains'
    )


def add_shape_argument(parser: ArgumentParser, what: str) -> None:
    """Add ``--shape H W``; ``what`` is its help."""
    parser.add_argument('--shape', type=int, nargs=2, metavar=('H', 'W'), help=what)


def add_run_arguments(parser: ArgumentParser, *, work_dir: bool = True) -> None:
    """Add the arguments that training and testing share, named as in MMSegmentation, for :func:`load_config`.

    Args:
        parser: Gets them.
        work_dir: Whether the user chooses the work directory.
    """
    if work_dir:
        parser.add_argument(
            '--work-dir', metavar='DIR', help='folder of logs and checkpoints; default: work_dirs/<name of the config>'
        )
    parser.add_argument(
        '--launcher', choices=LAUNCHERS, default='none', help='how the processes of a distributed run were started'
    )
    add_trust_argument(parser)
    # some launchers still pass it; torchrun sets LOCAL_RANK itself
    parser.add_argument(
        '--local_rank',
        '--local-rank',
        type=int,
        default=0,
        metavar='N',
        help='number of the process on its machine, set by the launcher',
    )


def read_config(args: Namespace) -> Config:
    """Read ``args.config`` and apply ``args.form``, ``args.mode`` (where the tool has them) and ``args.cfg_options``.

    Raises:
        FileNotFoundError: There is no such config.
        ValueError: It cannot be read, or an option is refused.
    """
    from ..engine import config_file
    from ..experiments.attention_choice import choose_attention

    cfg = config_file.read_config(args.config)
    if _attention_chosen(args):
        choose_attention(cfg, args.form, args.mode)
    config_file.apply_options(cfg, args.cfg_options or {}, args.config)
    return cfg


def config_of_model(args: Namespace) -> Config:
    """The config of ``add_model_arguments``: the file that is named, or what the checkpoint carries."""
    if args.config is not None:
        return read_config(args)
    from ..engine.config_file import apply_options
    from ..engine.inference import config_of_checkpoint

    cfg = config_of_checkpoint(args.checkpoint, args.trust_checkpoint)
    apply_options(cfg, args.cfg_options or {}, f'the config in {args.checkpoint}')
    return cfg


def load_model(args: Namespace, device: str | None = None) -> nn.Module:
    """The model of :func:`add_model_arguments` and :func:`add_loading_arguments`, with its weights.

    Args:
        args: Parsed arguments.
        device: Where it goes; None: where the arguments say.
    """
    from ..engine.inference import init_model

    cfg = config_of_model(args)
    return init_model(cfg, args.checkpoint, device or args.device, args.trust_checkpoint)


def _attention_chosen(args: Namespace) -> bool:
    return bool(getattr(args, 'form', None) or getattr(args, 'mode', None))


def load_config(args: Namespace, splits: Sequence[str]) -> Config:
    """Read the config and apply the command line to it; from here on checkpoints load safely.

    Args:
        args: Parsed arguments, ``config`` and those of :func:`add_run_arguments`.
        splits: The dataloaders that the tool will use, of ``train``, ``val`` and ``test``.

    Returns:
        The config, its data folders checked, ready for a Runner.

    Raises:
        FileNotFoundError: If there is no such config, or its data are missing.
        ValueError: The config cannot be read, or an option is refused.
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
    """The work directory: of the command line, of the config, or by the names of the config and a chosen attention."""
    from ..experiments.attention_choice import attention_name

    name = osp.splitext(osp.basename(args.config))[0] + (f'_{attention_name(cfg)}' if _attention_chosen(args) else '')
    return args.work_dir or cfg.get('work_dir') or osp.join('./work_dirs', name)
