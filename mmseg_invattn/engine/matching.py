"""Loads weights that fit the model exactly, and refuses all others.

MMEngine only logs weights that do not fit, and goes on with random values in their place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from .checkpoints import trusting
from .integrity import not_finite, refuse_tensor
from .weights import SHOWN, CheckpointMismatchError, weights_of


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside the wrappers of data-parallel training and test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def load_file(model: nn.Module, checkpoint: str, trust: bool = False) -> dict:
    """Load a checkpoint file or URL; its weights must be exactly those of the model.

    Args:
        model: The model.
        checkpoint: File or URL.
        trust: Load it even if that runs code in it.

    Returns:
        The content of the file.

    Raises:
        UnsafeCheckpointError: It holds more than tensors and plain values, and is not trusted.
        DamagedCheckpointError: It is damaged, or its weights are not finite.
        CheckpointMismatchError: Names or shapes differ.
    """
    with trusting(trust):
        loaded = CheckpointLoader.load_checkpoint(checkpoint, 'cpu')
    load_weights(model, loaded, checkpoint)
    return loaded


def load_weights(model: nn.Module, checkpoint: Any, name: str) -> None:
    """Load the weights of a checkpoint, which must be exactly those of the model.

    Args:
        model: The model, or a wrapper of it.
        checkpoint: Content of the file.
        name: Its name, for the message.

    Raises:
        CheckpointMismatchError: Names or shapes differ; the message gives the first of them.
        NonFiniteWeightsError: Weights are NaN or infinite.
    """
    weights = weights_of(checkpoint, name)
    check_parameters_finite(model, weights, name)
    differing = load_what_fits(model, weights)
    if differing:
        raise CheckpointMismatchError(
            f'{name}: this checkpoint does not belong to the config. These weights differ: '
            f'{differing}. Use the config that it was trained with'
        )


def load_what_fits(model: nn.Module, weights: Mapping[str, Tensor]) -> str:
    """Load the weights that fit into a model, or a wrapper of it.

    Returns:
        The first names and shapes of each kind that differ from the model's; empty if all agree.
    """
    model = unwrapped(model)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    try:
        missing, unexpected = model.load_state_dict(weights, strict=False)
        sized = []
    except RuntimeError as error:  # torch reports differing shapes in this way, even without strict
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
    return '; '.join(
        f'{len(keys)} {what}: {", ".join(keys[:SHOWN])}' + ', ...' * (len(keys) > SHOWN) for what, keys in found if keys
    )


def check_parameters_finite(model: nn.Module, weights: Mapping[str, Tensor], name: str) -> None:
    """Refuse NaN and infinite values for parameters of the model; a buffer may be infinite on purpose.

    Raises:
        NonFiniteWeightsError: There are such values; the message names the first tensor.
    """
    parameters = {key for key, _ in unwrapped(model).named_parameters()}
    for key, value in weights.items():
        bad = not_finite(value, key in parameters)
        if bad:
            refuse_tensor(name, key, bad)
