"""Memory that training a config takes, with activations stored and recovered."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import OPTIMIZERS, init_default_scope
from mmseg.models.segmentors import BaseSegmentor
from mmseg.registry import MODELS
from torch import Tensor, nn

from ..compat import type_name
from ..datasets.image_size import image_size
from ..engine.config_checks import explained
from ..engine.config_checks.building import what
from ..engine.config_checks.model import STUMBLES, blank_sample, image_channels
from .step_memory import StepMemory, step_memory

SETTING = 'memory_free'
AMP = 'AmpOptimWrapper'


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes that training takes.

    Attributes:
        shape: of the images, (B, C, H, W).
        parameters: of the model, its buffers included.
        optimizer: state of the optimiser; None if the config has none.
        optimizer_type: its name, empty if there is none.
        steps: ``'stored'``, and ``'memory-free'`` if a part of the model can be, -> the memory of a step, or why it
            could not be counted; ``part`` is the backbone.
        configured: which of them the config trains.
    """

    shape: tuple[int, ...]
    parameters: int
    optimizer: int | None
    optimizer_type: str
    steps: dict[str, StepMemory | str]
    configured: str

    def total(self, step: StepMemory) -> int:
        """Parameters, buffers, optimiser and the peak of the step, which has the gradients."""
        return self.parameters + (self.optimizer or 0) + step.peak


def training_memory(cfg: Config, size: Sequence[int] | None = None) -> TrainingMemory:
    """Memory of a training step of a config with its batch size, losses, auxiliary heads and precision.

    Args:
        cfg: whole config, of a segmentor, a classifier or a flow.
        size: (H, W) of the images; None takes what the config trains on.

    Raises:
        ConfigError: the model cannot be built.
        ValueError: no size is given and the config names none.
    """
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    size = tuple(size or image_size(cfg))
    batch = (cfg.get('train_dataloader') or {}).get('batch_size') or 1
    places = list(memory_free_places(cfg.model))
    configured = 'memory-free' if any(place.get(SETTING, default) for place, default in places) else 'stored'
    steps, shape, model = {}, (), None
    for name in ('stored', 'memory-free') if places else ('stored',):
        model = _built(cfg, name == 'memory-free')
        shape = (batch, image_channels(model), *size)
        steps[name] = _step(model, shape, _precision(cfg))
    assert model is not None
    sizes = [t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers())]
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer')
    state = _optimizer_state(model, optimizer) if optimizer else None
    return TrainingMemory(shape, sum(sizes), state, type_name(optimizer), steps, configured)


def memory_free_places(model: Any) -> Iterator[tuple[Any, bool]]:
    """Every dict in the config of a model that has the setting ``memory_free`` or builds something that takes it.

    Yields:
        The dict, and the default of the setting.
    """
    if isinstance(model, Mapping):
        default = _default(MODELS.get(model['type']) if isinstance(model.get('type'), str) else model.get('type'))
        if default is not None or SETTING in model:
            yield model, bool(default)
        for value in model.values():
            yield from memory_free_places(value)
    elif isinstance(model, (list, tuple)):
        for value in model:
            yield from memory_free_places(value)


def memory_free_types() -> list[str]:
    """Names of the registered parts of a model that take ``memory_free``."""
    return sorted(name for name, kind in MODELS.module_dict.items() if _default(kind) is not None)


def _default(kind: Any) -> bool | None:
    """Default of the setting; None if the class does not take it."""
    if not inspect.isclass(kind):
        return None
    parameter = inspect.signature(kind).parameters.get(SETTING)
    return None if parameter is None else parameter.default is True


def _built(cfg: Config, memory_free: bool) -> nn.Module:
    cfg = copy.deepcopy(cfg)
    for place, _ in memory_free_places(cfg.model):
        place[SETTING] = memory_free
    if cfg.model.get('pretrained'):  # weights do not matter here
        cfg.model.pretrained = None
    with explained(cfg):
        return MODELS.build(cfg.model).train()


def _step(model: nn.Module, shape: tuple[int, ...], precision: AbstractContextManager) -> StepMemory | str:

    def loss(model: nn.Module, images: Tensor) -> Tensor:
        with precision:
            losses = model(images, _labels(model, images), mode='loss')
            return model.parse_losses(losses)[0]

    try:
        return step_memory(model, shape, loss, getattr(model, 'backbone', None))
    except (MemoryError, *STUMBLES) as error:
        return what(error)


def _labels(model: nn.Module, images: Tensor) -> Tensor | list:
    """Class 0 for every pixel, or for every image if the model is no segmentor."""
    if isinstance(model, BaseSegmentor):
        return [blank_sample(images.shape[2:], 'cpu') for _ in images]
    return torch.zeros(len(images), dtype=torch.long)


def _precision(cfg: Config) -> AbstractContextManager:
    """Autocast as the config trains, by the rules of the CPU."""
    wrapper = cfg.get('optim_wrapper') or {}
    if type_name(wrapper) != AMP:
        return nullcontext()
    dtype = wrapper.get('dtype') or 'float16'
    return torch.autocast('cpu', getattr(torch, dtype) if isinstance(dtype, str) else dtype)


def _optimizer_state(model: nn.Module, config: Mapping) -> int:
    """Bytes of the state after a step, made for one parameter at a time."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = OPTIMIZERS.build(dict(config, params=trained))
    total = 0
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        state = optimizer.state.pop(parameter, {})
        total += sum(t.numel() * t.element_size() for t in state.values() if isinstance(t, Tensor))
        parameter.grad = None
    return total
