"""A log that cannot be written does not end a run: the run warns once and goes on."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any

import cv2
import numpy as np
from mmengine.hooks import LoggerHook
from mmengine.runner import Runner
from mmengine.visualization import LocalVisBackend, Visualizer

from .atomic_backend import AtomicLocalBackend

_said: set[str] = set()  # the logs of which this process has warned already


@contextmanager
def forgiven(what: str) -> Iterator[None]:
    """Warn, and go on, if the block cannot write.

    Args:
        what: What the block writes, for the warning.
    """
    try:
        yield
    except OSError as error:
        say_once(what, error)


def say_once(what: str, error: BaseException | None) -> None:
    """Warn on the console of a log that cannot be written, the first time only."""
    if what not in _said:
        _said.add(what)
        # not through the log, which may be what fails; the console may fail too
        with suppress(OSError, ValueError):
            reason = getattr(error, 'strerror', None) or str(error)
            print(f'WARNING: {what} cannot be written ({reason}): the run goes on without it', file=sys.stderr)


def forgive(runner: Runner, pictures: bool) -> None:
    """Let a run go on if its log or its scalars cannot be written.

    Args:
        runner: The Runner, built but not started.
        pictures: Whether pictures belong to the log too, and not to the results.
    """
    forgive_logger(runner.logger)
    forgive_visualizer(runner.visualizer)
    for backend in _backends(runner.visualizer) if pictures else ():
        _forgive_methods(backend, 'add_image')
    for hook in runner.hooks:
        if isinstance(hook, LoggerHook):  # it copies the log into another folder
            hook.after_run = _forgiving(hook.after_run, 'the copy of the log')


def forgive_logger(logger: logging.Logger) -> None:
    """Warn once that a log cannot be written, instead of the traceback that Python prints for each of its lines."""
    for handler in logger.handlers:
        handler.handleError = _handler_error(handler)


def forgive_visualizer(visualizer: Visualizer) -> None:
    """Let the logs of visualisation backends fail; their pictures are written whole or not at all."""
    for backend in _backends(visualizer):
        if hasattr(backend, '_forgiving'):
            continue
        backend._forgiving = True
        if isinstance(backend, LocalVisBackend):
            backend._dump = _whole_lines(backend._dump)
            backend.add_image = _whole_pictures(backend)
        _forgive_methods(backend, 'add_config', 'add_graph', 'add_scalar', 'add_scalars', 'close')


def _backends(visualizer: Visualizer) -> list[Any]:
    return list((getattr(visualizer, '_vis_backends', None) or {}).values())


def _forgive_methods(backend: Any, *names: str) -> None:
    for name in names:
        if hasattr(backend, name):
            setattr(backend, name, _forgiving(getattr(backend, name), f'the log of {type(backend).__name__}'))


def _forgiving(method: Callable, what: str) -> Callable:
    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        with forgiven(what):
            return method(*args, **kwargs)

    return call


def _handler_error(handler: logging.Handler) -> Callable[[logging.LogRecord], None]:
    what = getattr(handler, 'baseFilename', None) or 'the console'

    def handle(record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError) or 'closed file' in str(error):
            say_once(str(what), error)
        else:  # a mistake in the call, which Python prints
            logging.Handler.handleError(handler, record)

    return handle


def _whole_pictures(backend: LocalVisBackend) -> Callable:
    """Write a picture whole or not at all; OpenCV leaves a part of it on a full disk without an error."""

    def add_image(name: str, image: np.ndarray, step: int = 0, **kwargs: Any) -> None:
        folder = backend.experiment._img_save_dir  # its folders are made on first use
        _, png = cv2.imencode('.png', cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        AtomicLocalBackend().put(png.tobytes(), os.path.join(folder, f'{name}_{step}.png'))

    return add_image


def _whole_lines(dump: Callable) -> Callable:
    """Remove a partly written line after a full disk, because the next line would be joined to it."""

    @wraps(dump)
    def call(value: dict, path: str, *args: Any) -> None:
        before = os.path.getsize(path) if os.path.exists(path) else 0
        try:
            dump(value, path, *args)
        except OSError:
            with suppress(OSError):
                os.truncate(path, before)
            raise

    return call
