"""Loading weights that belong to the model, and refusing those that do not.

MMEngine logs what does not fit and goes on, with the rest of the model as it was initialised.
"""

from __future__ import annotations

import re
from typing import Any

from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from .checkpoints import use_safe_checkpoint_loading

SHOWN = 3  # keys of each kind in the message


class CheckpointMismatchError(ValueError):
    """A checkpoint of another model."""


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside of wrappers for data-parallel training and for test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def weights_of(checkpoint: dict, name: str) -> dict[str, Tensor]:
    """The weights in a checkpoint of MMEngine, or in a bare state dict, without the prefix of a data-parallel model.

    Args:
        checkpoint: What the file holds.
        name: Its name, for the message.

    Raises:
        CheckpointMismatchError: It holds no weights.
    """
    weights = checkpoint.get('state_dict', checkpoint) if isinstance(checkpoint, dict) else {}
    if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointMismatchError(
            f'{name}: there are no weights in this file; a checkpoint holds them under '
            '"state_dict", or is nothing but them'
        )
    return {re.sub(r'^module\.', '', key): value for key, value in weights.items()}


def load_file(model: nn.Module, checkpoint: str, trust: bool = False) -> dict:
    """Load the weights of a checkpoint file or URL, all of them, into all of the model.

    Args:
        model: The model.
        checkpoint: File or URL.
        trust: Load it even where that runs code which it contains.

    Returns:
        What the file holds.

    Raises:
        UnsafeCheckpointError: It holds more than tensors and plain values, and is not trusted.
        CheckpointMismatchError: Names or shapes differ.
    """
    use_safe_checkpoint_loading(trust)
    try:
        loaded = CheckpointLoader.load_checkpoint(checkpoint, 'cpu')
    finally:
        use_safe_checkpoint_loading()
    load_weights(model, loaded, checkpoint)
    return loaded


def load_weights(model: nn.Module, checkpoint: Any, name: str) -> None:
    """Load the weights of a checkpoint, all of them, into all of the model.

    Args:
        model: The model, or a wrapper of it.
        checkpoint: What the file holds.
        name: Its name, for the message.

    Raises:
        CheckpointMismatchError: Names or shapes differ; the message gives the first of them.
    """
    model = unwrapped(model)
    weights = weights_of(checkpoint, name)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    try:
        missing, unexpected = model.load_state_dict(weights, strict=False)
        sized = []
    except RuntimeError as error:  # torch reports other shapes in this way, also without strict
        sized = [key for key in weights if f'size mismatch for {key}:' in str(error)]
        if not sized:
            raise
        missing, unexpected = shapes.keys() - weights.keys(), weights.keys() - shapes.keys()
        missing, unexpected = (
            [key for key in order if key in keys] for order, keys in ((shapes, missing), (weights, unexpected))
        )
    missing = [key for key in missing if not key.endswith('num_batches_tracked')]
    found = [
        ('of another shape', [f'{key} {tuple(weights[key].shape)} for {shapes.get(key)}' for key in sized]),
        ('only in the model', missing),
        ('only in the checkpoint', unexpected),
    ]
    if any(keys for _, keys in found):
        listed = '; '.join(
            f'{len(keys)} {what}: {", ".join(keys[:SHOWN])}' + ', ...' * (len(keys) > SHOWN)
            for what, keys in found
            if keys
        )
        raise CheckpointMismatchError(
            f'{name}: this checkpoint does not belong to the config. Of its weights are '
            f'{listed}. Take the config that it was trained with'
        )
