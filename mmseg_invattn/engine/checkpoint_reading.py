"""The rule for reading a checkpoint: run nothing that it contains, and take nothing that is damaged or not finite."""

from __future__ import annotations

import os
import pickle
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from .embedded_config import without_unsafe_configs
from .integrity import DamagedCheckpointError, check_finite, check_records
from .stock_globals import restored, stock_checkpoints_allowed


class UnsafeCheckpointError(ValueError):
    """A checkpoint that cannot be loaded without running code it contains."""


@contextmanager
def _checkpoint_errors(name: str, trust: bool) -> Iterator[None]:
    """Translate what ``torch.load`` raises into errors that name the file, the rule and the fix."""
    try:
        yield
    except (pickle.UnpicklingError, RuntimeError) as error:
        text = str(error)
        if isinstance(error, pickle.UnpicklingError) or 'weights_only=True' in text:
            culprit = re.search(r'GLOBAL (\S+)', text)
            what = f'it asks for {culprit[1]}' if culprit else 'it holds more than tensors and plain values'
            raise UnsafeCheckpointError(
                f'{name}: refused, because loading it would run code that the file contains ({what}). '
                'Checkpoints must load with weights_only=True. If you trust the source of the file, pass '
                '--trust-checkpoint to the tool, trust_checkpoint=True to init_model, or call '
                'mmseg_invattn.engine.checkpoints.use_safe_checkpoint_loading(trust=True)'
            ) from error
        if 'PytorchStreamReader' in text or 'unexpected EOF' in text:
            raise DamagedCheckpointError(
                f'{name}: the checkpoint is truncated or damaged ({text.splitlines()[0]}); '
                'use an earlier one, or fetch it again'
            ) from error
        if trust or type(error) is not RuntimeError or 'deserialize' in text:  # no memory, or no such device
            raise
        raise DamagedCheckpointError(
            f'{name}: the checkpoint is damaged, or not a checkpoint ({text.splitlines()[0]}); use an earlier one'
        ) from error
    except EOFError as error:
        raise DamagedCheckpointError(f'{name}: the checkpoint ends too early; use an earlier one') from error
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, struct.error) as error:
        if trust:  # the error may come from code that the file contains
            raise
        raise DamagedCheckpointError(
            f'{name}: the checkpoint is damaged, or not a checkpoint ({type(error).__name__}: {error}); use an '
            'earlier one'
        ) from error


def read_checkpoint(
    path: str | os.PathLike, map_location: Any = None, trust: bool = False, mmap: bool = False, any_config: bool = False
) -> Any:
    """Load a checkpoint file without running code in it, after a check that it is whole and its weights are finite.

    Args:
        path: The file.
        map_location: As for ``torch.load``.
        trust: Unpickle arbitrary objects as well.
        mmap: Leave the tensors on disk until they are used, to read only the rest of the checkpoint.
        any_config: Keep a config in the checkpoint even if it is more than plain values. Only for callers that do not
            pass it on to MMEngine, which would run it.

    Returns:
        The content of the file.

    Raises:
        FileNotFoundError: If there is no such file.
        UnsafeCheckpointError: If the file needs more than tensors and plain values, and is not trusted.
        DamagedCheckpointError: If the file is truncated, its checksums differ, or it is not a checkpoint.
        NonFiniteWeightsError: If weights in it are NaN or infinite.
    """
    path = os.path.expanduser(os.fspath(path))
    check_is_file(path)
    with open(path, 'rb') as file:
        return load_checked(file, path, map_location, trust, mmap, any_config)


def load_checked(
    file: IO[bytes], name: str, map_location: Any, trust: bool, mmap: bool = False, any_config: bool = False
) -> Any:
    """The same as :func:`read_checkpoint`, for an open file or for bytes in memory.

    Args:
        file: The contents.
        name: Path or address, for messages, and for ``mmap``.
        map_location: As for ``torch.load``.
        trust: Unpickle arbitrary objects as well.
        mmap: Leave the tensors in the file ``name`` until they are used.
        any_config: Keep a config even if it is more than plain values.
    """
    import torch

    is_zip = check_records(file, name)
    with _checkpoint_errors(name, trust), stock_checkpoints_allowed():
        mapped = mmap and is_zip
        checkpoint = torch.load(
            name if mapped else file, map_location=map_location, weights_only=not trust, mmap=mapped
        )
        checkpoint = restored(checkpoint)
    check_finite(checkpoint, name)
    return checkpoint if trust or any_config else without_unsafe_configs(checkpoint, name)


def check_is_file(path: str) -> None:
    """Refuse a path that is not a file.

    Raises:
        FileNotFoundError: There is nothing at the path, or a folder. The message names the newest checkpoint in it.
    """
    if os.path.isdir(path):
        inside = sorted(Path(path).glob('*.pth'), key=os.path.getmtime)
        near = f', such as {inside[-1]}' if inside else ''
        raise FileNotFoundError(f'{path}: this is a folder, but a checkpoint is a file{near}')
    if not os.path.isfile(path):
        raise FileNotFoundError(f'{path}: there is no such checkpoint file')
