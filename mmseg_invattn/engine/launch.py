"""Builds Runners from a config, for training or for a test, and ends their processes in order."""

from __future__ import annotations

import os.path as osp

from mmengine.config import Config
from mmengine.runner import Runner
from mmseg.registry import RUNNERS
from torch import distributed as torch_dist

from ..compat import silence_log
from ..stop_request import stop_request
from .brief_runner import BriefRunner, introduce
from .checkpoint_reading import check_is_file
from .config_checks import check_config, explained
from .config_checks.loaders import allow_open_files, patience_explained, set_patience
from .forgiving_logs import forgive
from .hooks import (
    ConfigCheckHook,
    FiniteOutputHook,
    MatchingCheckpointHook,
    MissedValidationHook,
    PredictionFilesHook,
    ResumedDataHook,
    ResumedSettingsHook,
    StopHook,
)

ADDED_TO_RUNS = (  # hooks that every Runner gets, whatever its config says
    ConfigCheckHook,
    FiniteOutputHook,
    MissedValidationHook,
    PredictionFilesHook,
    ResumedDataHook,
    ResumedSettingsHook,
)

# The default hooks that MMEngine adds unless a config sets them, and leaves out if the config says None.
ADDED_HOOKS = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')


def build_runner(cfg: Config, what: str, evaluation: bool = False) -> Runner:
    """Build MMEngine's Runner, or the one that the config names by ``runner_type``.

    ``default_hooks.NAME=None`` leaves out any hook; MMEngine itself allows that only for its own hooks. Mistakes in the
    config are reported before anything is built, while something is built from it (here and when the Runner starts),
    and by :class:`ConfigCheckHook`.

    Args:
        cfg: The config.
        what: What the Runner does, for the log, such as ``training``.
        evaluation: Whether it evaluates a checkpoint, which must then contain all of the weights.

    Raises:
        ConfigError: The config has a mistake. The message names the path, the value, the rule and the fix.
    """
    hooks = cfg.get('default_hooks') or {}
    for name in [name for name, hook in hooks.items() if hook is None and name not in ADDED_HOOKS]:
        del hooks[name]
    check_config(cfg)
    allow_open_files(cfg)
    set_patience(cfg)
    with explained(cfg):
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else BriefRunner.from_cfg(cfg)
    if isinstance(runner, Runner):  # other Runners, such as FlexibleRunner, may shard the weights
        runner.register_hook(MatchingCheckpointHook(evaluation))
        for kind in ADDED_TO_RUNS:
            if not any(isinstance(hook, kind) for hook in runner.hooks):
                runner.register_hook(kind())
    silence_log(runner.logger)
    forgive(runner, pictures=what == 'training')
    introduce(runner, what)
    for name in ('train', 'val', 'test'):  # these methods build the rest: data sets, loops, optimisers
        setattr(runner, name, patience_explained(runner)(explained(cfg)(getattr(runner, name))))
    return runner


def train(runner: Runner) -> None:
    """Train. On SIGTERM or SIGUSR1 write a checkpoint before ending, if the command passes these signals on.

    Raises:
        Terminated: A signal has ended the training.
    """
    hook = StopHook() if isinstance(runner, Runner) else None  # other Runners may shard the weights
    if hook is not None:
        runner.register_hook(hook)
    try:
        runner.train()
    except Exception:
        if hook is not None:
            hook.stop_between_iterations(runner)
        raise
    finally:
        stop_request.disarm()


def check_checkpoint_file(checkpoint: str) -> None:
    """Refuse a path without a file before anything is built; URLs are checked by the loader.

    Raises:
        FileNotFoundError: There is no such file, or it is a folder.
    """
    if '://' not in checkpoint:
        check_is_file(osp.expanduser(checkpoint))


def build_test_runner(cfg: Config, checkpoint: str) -> Runner:
    """Build the Runner that evaluates a checkpoint; it refuses one that belongs to another model."""
    cfg.load_from, cfg.resume = checkpoint, False
    return build_runner(cfg, 'testing', evaluation=True)


def leave_distributed() -> None:
    """Leave the process group at the end of a successful run."""
    if torch_dist.is_available() and torch_dist.is_initialized():
        torch_dist.barrier()
        torch_dist.destroy_process_group()
