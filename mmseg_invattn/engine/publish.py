"""Reduces a checkpoint to what others need, and names the file so that its content can be checked."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import torch
from torch import Tensor

from .checkpoints import read_checkpoint
from .matching import weights_of

META = ('dataset_meta', 'epoch', 'iter', 'seed', 'mmengine_version')
DIGITS = 8  # of the SHA-256, as torch.hub checks them


def choose_weights(checkpoint: dict, name: str, which: str | None) -> dict[str, Tensor]:
    """The weights of a checkpoint.

    MMEngine's ``EMAHook`` stores the averaged weights under ``state_dict``, where a test finds them, and the trained
    ones under ``ema_state_dict``, each name with ``module.`` before it.

    Args:
        checkpoint: Content of the file.
        name: Its name, for messages.
        which: ``'averaged'``, ``'trained'``, or None for the weights that a test would use.

    Raises:
        ValueError: The checkpoint has no averaged weights.
    """
    weights = weights_of(checkpoint, name)
    averages = checkpoint.get('ema_state_dict')
    if averages is None:
        if which == 'averaged':
            raise ValueError(
                f'{name}: there are no averaged weights in this checkpoint; train with '
                "custom_hooks=[dict(type='EMAHook')], or leave out --weights"
            )
        return weights
    if which == 'trained':
        trained = {key.removeprefix('module.'): value for key, value in averages.items() if key != 'steps'}
        weights = {key: trained.get(key, value) for key, value in weights.items()}
    return weights


def publish(source: Path, folder: Path, which: str | None = None, trust: bool = False) -> tuple[Path, bytes]:
    """Path and content of the published file of a checkpoint.

    Args:
        source: The checkpoint.
        folder: Folder of the published file.
        which: See :func:`choose_weights`.
        trust: Unpickle arbitrary objects too.
    """
    checkpoint = read_checkpoint(source, 'cpu', trust)
    weights = choose_weights(checkpoint, str(source), which)
    meta = checkpoint.get('meta', {})
    kept = dict(
        # cloned, because torch.save writes the whole storage behind a view
        state_dict={key: value.detach().clone().contiguous() for key, value in weights.items()},
        meta={key: meta[key] for key in META if key in meta},
    )
    stream = io.BytesIO()  # torch.save writes the name of a file into it
    torch.save(kept, stream)
    content = stream.getvalue()
    return folder / f'{source.stem}-{hashlib.sha256(content).hexdigest()[:DIGITS]}{source.suffix or ".pth"}', content


def write_verified(path: Path, content: bytes, source: Path, which: str | None = None, trust: bool = False) -> None:
    """Write the file, read it back with safe loading, and compare the digest in its name.

    Raises:
        RuntimeError: The file does not read back as it was written; it is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f'.{path.name}.partial')
    try:
        partial.write_bytes(content)
        expected = choose_weights(read_checkpoint(source, 'cpu', trust), str(source), which)
        loaded = torch.load(partial, map_location='cpu', weights_only=True)['state_dict']
        digest = hashlib.sha256(partial.read_bytes()).hexdigest()[:DIGITS]
        if (
            not path.stem.endswith(digest)
            or loaded.keys() != expected.keys()
            or not all(_same(loaded[key], value) for key, value in expected.items())
        ):
            raise RuntimeError(f'{path}: the file does not read back as it was written; check the disk')
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _same(one: Tensor, other: Tensor) -> bool:
    """Equal in shape, type and value; NaN equals NaN."""
    return (
        one.shape == other.shape
        and one.dtype == other.dtype
        and bool(((one == other) | ((one != one) & (other != other))).all())
    )
