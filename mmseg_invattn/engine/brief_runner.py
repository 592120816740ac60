"""A Runner that writes environment, config and hooks, some 300 lines, to the log file and not to the console."""

from __future__ import annotations

import logging
import os.path as osp
from typing import Any

from mmengine.device import get_device
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from mmengine.visualization import Visualizer

from .forgiving_logs import forgive_logger, forgive_visualizer, forgiven

FILE_ONLY = ('_log_env', '__init__', 'wrap_model', 'build_model')  # functions of MMEngine's runner.py


def _for_console(record: logging.LogRecord) -> bool:
    return record.levelno > logging.INFO or record.module != 'runner' or record.funcName not in FILE_ONLY


class BriefRunner(Runner):
    """MMEngine's ``Runner``, whose messages before the first iteration go to the log file only."""

    def dump_config(self) -> None:
        with forgiven('the copy of the config'):
            super().dump_config()

    def build_visualizer(self, *args: Any, **kwargs: Any) -> Visualizer:
        visualizer = super().build_visualizer(*args, **kwargs)
        forgive_visualizer(visualizer)
        return visualizer

    def build_logger(self, log_level: int | str = 'INFO', log_file: str | None = None, **kwargs: Any) -> MMLogger:
        logger = super().build_logger(log_level, log_file, **kwargs)
        forgive_logger(logger)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(_for_console)
        return logger


def introduce(runner: Runner, what: str) -> None:
    """Log what the run does, on which device, and where it writes.

    Args:
        runner: The Runner, already built.
        what: What it does, such as ``training``.
    """
    config = osp.basename(runner.cfg.filename or runner.experiment_name)
    processes = f', {runner.world_size} processes' if runner.world_size > 1 else ''
    runner.logger.info(f'{what} {config} on {get_device()}{processes}; work directory: {_short(runner.work_dir)}')
    if runner.logger.log_file:
        runner.logger.info(f'environment, config and hooks: {_short(runner.logger.log_file)}')


def _short(path: str) -> str:
    """The path relative to the current folder, if it lies below that."""
    relative = osp.relpath(path)
    return path if relative.startswith('..') else relative
