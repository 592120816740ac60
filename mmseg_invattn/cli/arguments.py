"""What subcommands share: arguments, the config and what of it the command line changes, files that are in the way."""

from __future__ import annotations

import os
import os.path as osp
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path

from mmengine.config import Config, DictAction

from ..compat import prepare_distributed
from ..datasets.checks import check_data_folders
from ..engine.checkpoints import use_safe_checkpoint_loading
from ..engine.config_checks import check_config
from ..experiments.attention_choice import attention_name, choose_attention
from ..layers import FORMS
from ..layers.attention.modes import MODES
from ..paths import find_config

LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')


def add_common_arguments(parser: ArgumentParser) -> None:
    """Add the arguments that training and testing share, named as in MMSegmentation."""
    parser.add_argument('--work-dir', help='folder of logs and checkpoints; ./work_dirs/<config name> by default')
    _add_cfg_options(parser)
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none', help='how the processes were started')
    parser.add_argument(
        '--trust-checkpoint', action='store_true', help='load checkpoints even where that runs code which they contain'
    )
    # some launchers still pass it; torchrun sets LOCAL_RANK itself
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by the launcher')


def _add_cfg_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override settings of the config; lists as key="[a,b]" or key=a,b, nested ones as '
        'key="[(a,b),(c,d)]" (with the quotation marks, without blanks)',
    )


def add_config_arguments(parser: ArgumentParser) -> None:
    """Add ``config`` and ``--cfg-options``, for :func:`read_config`: the arguments of tools that run no Runner."""
    parser.add_argument('config', help='config file')
    _add_cfg_options(parser)


def add_model_arguments(parser: ArgumentParser) -> None:
    """Add ``config`` and ``checkpoint``: a trained model."""
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')


def add_trust_argument(parser: ArgumentParser) -> None:
    """Add ``--trust-checkpoint``, for a single checkpoint."""
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='load the checkpoint even where that runs code which it contains',
    )


def check_suffix(parser: ArgumentParser, out: Path | None, suffixes: Sequence[str], what: str) -> None:
    """End with the usage where ``--out`` names a file of another kind."""
    if out and out.suffix not in suffixes:
        parser.error(f'--out {out}: {what} ends in {", ".join(suffixes)}')


def add_loading_arguments(parser: ArgumentParser) -> None:
    """Add ``--device`` and ``--trust-checkpoint``: the arguments of tools that load a model and train none."""
    parser.add_argument('--device', help='such as cpu or cuda:0; default: the GPU where there is one')
    add_trust_argument(parser)


def add_attention_arguments(parser: ArgumentParser) -> None:
    """Add ``--form`` and ``--mode``, for :func:`read_config`: the attention of a flow or a reconstruction."""
    what = 'of the attention, in a config of configs/flow or configs/reconstruction'
    parser.add_argument('--form', choices=list(FORMS), help=f"{what}; none: without attention; default: the config's")
    parser.add_argument(
        '--mode', choices=list(MODES), help=f"{what}; default: the config's, embedded_gaussian where it has none"
    )


def read_config(args: Namespace) -> Config:
    """Read ``args.config`` and apply ``args.form``, ``args.mode`` (where the tool has them) and ``args.cfg_options``.

    Raises:
        FileNotFoundError: If there is no such config.
    """
    cfg = Config.fromfile(find_config(args.config))
    if _attention_chosen(args):
        choose_attention(cfg, args.form, args.mode)
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    return cfg


def _attention_chosen(args: Namespace) -> bool:
    return bool(getattr(args, 'form', None) or getattr(args, 'mode', None))


def load_config(args: Namespace, splits: Sequence[str]) -> Config:
    """Read the config and apply the command line to it; from here on checkpoints load safely.

    Args:
        args: Parsed arguments, ``config`` and those of :func:`add_common_arguments`.
        splits: The dataloaders that the tool will use, of ``train``, ``val`` and ``test``.

    Returns:
        The config, its data folders checked, ready for a Runner.

    Raises:
        FileNotFoundError: If there is no such config, or its data are missing.
    """
    cfg = read_config(args)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        name = osp.splitext(osp.basename(args.config))[0]
        cfg.work_dir = osp.join('./work_dirs', name + (f'_{attention_name(cfg)}' if _attention_chosen(args) else ''))
    check_config(cfg)
    check_data_folders(cfg, splits)
    use_safe_checkpoint_loading(args.trust_checkpoint)
    prepare_distributed(cfg, args.launcher)
    return cfg


def add_overwrite_argument(parser: ArgumentParser) -> None:
    """Add ``--overwrite``, for :func:`refuse_existing`."""
    parser.add_argument('--overwrite', action='store_true', help='replace files that are there already')


def refuse_existing(files: Iterable[str | Path], overwrite: bool) -> None:
    """Refuse to write over files, before any work is done.

    Args:
        files: What the tool is going to write.
        overwrite: The user has asked for it.

    Raises:
        FileExistsError: Some of them are there; names the first.
    """
    there = [] if overwrite else [str(file) for file in files if osp.lexists(file)]
    if there:
        more = f' and {len(there) - 1} more files' * (len(there) > 1)
        raise FileExistsError(
            f'{there[0]}{more} would be replaced, which is done on request only: add --overwrite, '
            'or choose another --out'
        )
