"""What tools/train.py and tools/test.py share: arguments, config, work directory, launcher, checkpoint safety."""
from __future__ import annotations

import os
import os.path as osp
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from mmengine.config import Config, DictAction
from mmengine.runner import Runner
from mmseg.registry import RUNNERS
from torch import distributed as torch_dist

from ..compat import prepare_distributed, use_safe_checkpoint_loading
from ..datasets.checks import check_data_folders

LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')


def add_common_arguments(parser: ArgumentParser) -> None:
    """Add the arguments that training and testing share, named as in MMSegmentation."""
    parser.add_argument('--work-dir', help='folder of logs and checkpoints; ./work_dirs/<config name> by default')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
                        help='override settings of the config; lists as key="[a,b]" or key=a,b, nested ones as '
                             'key="[(a,b),(c,d)]" (with the quotation marks, without blanks)')
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none', help='how the processes were started')
    parser.add_argument('--trust-checkpoint', action='store_true',
                        help='load checkpoints even where that runs code which they contain')
    # some launchers still pass it; torchrun sets LOCAL_RANK itself
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by the launcher')


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
    if not osp.isfile(args.config):
        raise FileNotFoundError(f'{args.config}: there is no such config file (current folder: {os.getcwd()})')
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = Config.fromfile(args.config)
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join('./work_dirs', osp.splitext(osp.basename(args.config))[0])
    check_data_folders(cfg, splits)
    use_safe_checkpoint_loading(args.trust_checkpoint)
    prepare_distributed(cfg, args.launcher)
    return cfg


def build_runner(cfg: Config) -> Runner:
    """Build MMEngine's Runner, or the one that the config names by ``runner_type``."""
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def leave_distributed() -> None:
    """Take leave of the other processes, at the end of a run that went well."""
    if torch_dist.is_available() and torch_dist.is_initialized():
        torch_dist.barrier()
        torch_dist.destroy_process_group()
