"""Whole models from their configs: a training step and inference, on random images.

Under autocast, a head whose attention can follow it is measured in both precisions: in float32, which is the default,
and with ``precision='autocast'``, like ordinary attention.
"""

from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from ...layers import FORMS
from ...paths import find_config
from .memory import Side, available
from .precision import autocast
from .session import Session
from .timing import Step

CONFIGS = tuple(
    f'{name}_4xb2-40k_cityscapes-512x1024.py' for name in ('nonlocal/nonlocal_r50-d8', 'invnl/invnl_r50-d8')
)
PRECISION = '+model.decode_head.attention.precision'  # with a plus, because configs do not have this key


class Variant(NamedTuple):
    """A config with changes."""

    name: str
    config: str
    cfg_options: Mapping | None

    def side(self, builder: Callable[..., Step], **options: object) -> Side:
        options |= dict(config=self.config, cfg_options=self.cfg_options)
        return Side(builder, options, dict(crop=(64, 64), batch=2))


def build(
    config: str, crop: tuple[int, int], device: str, cfg_options: Mapping | None = None
) -> tuple[nn.Module, object]:
    """The model with random weights, for crops of this size, and its config. SyncBN is replaced by BN."""
    from mmengine.model import revert_sync_batchnorm
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    from ...engine.config_file import read_config

    cfg = read_config(config, cfg_options)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    cfg.model.pretrained = None
    cfg.model.backbone.pop('init_cfg', None)
    cfg.model.data_preprocessor.size = crop
    torch.manual_seed(0)
    return revert_sync_batchnorm(MODELS.build(cfg.model)).to(device), cfg


def batch_of(model: nn.Module, crop: tuple[int, int], batch: int) -> dict:
    """Random images and labels in the format of a data loader."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    heads = model.decode_head
    classes = (heads[-1] if isinstance(heads, nn.ModuleList) else heads).num_classes
    data = dict(inputs=[], data_samples=[])
    for _ in range(batch):
        sample = SegDataSample(metainfo=dict(img_shape=crop, ori_shape=crop, pad_shape=crop))
        sample.gt_sem_seg = PixelData(data=torch.randint(classes, (1, *crop)))
        data['inputs'].append(torch.randint(256, (3, *crop), dtype=torch.uint8))
        data['data_samples'].append(sample)
    return data


def train(
    config: str, crop: tuple[int, int], batch: int, dtype: str, device: str, cfg_options: Mapping | None = None
) -> Step:
    """A training step: forward pass and loss under autocast to the dtype, backward pass, step of the optimiser."""
    from mmengine.optim import build_optim_wrapper

    model, cfg = build(config, crop, device, cfg_options)
    optimiser = build_optim_wrapper(model, cfg.optim_wrapper)
    data = batch_of(model, crop, batch)
    model.train()

    def step() -> None:  # not model.train_step, whose autocast would include the backward pass
        with autocast(dtype, device):
            losses = model(**model.data_preprocessor(data, True), mode='loss')
        optimiser.update_params(model.parse_losses(losses)[0])

    return step


def infer(
    config: str, crop: tuple[int, int], batch: int, dtype: str, device: str, cfg_options: Mapping | None = None
) -> Step:
    model, _ = build(config, crop, device, cfg_options)
    data = batch_of(model, crop, batch)
    model.eval()

    @torch.no_grad()
    def step() -> None:
        with autocast(dtype, device):
            model.test_step(data)

    return step


def fitting_batch(session: Session, side: Side) -> int:
    """The requested batch size, or 1 if that would not fit, judging by the memory for one image."""
    if session.batch == 1:
        return 1
    need = session.batch * session.usage(side.with_options(batch=1)).memory
    return session.batch if need < 0.8 * available(session.device) else 1


def _trained_size(config: str, cfg_options: Mapping | None) -> tuple[int, int]:
    from ...datasets.image_size import image_size
    from ...engine.config_file import read_config

    return image_size(read_config(config, cfg_options))


def variants(config: str, cfg_options: Mapping | None, dtype: str) -> list[Variant]:
    """The config as it is, and under autocast also with a branch that follows it, if its head has such a block."""
    from ...engine.config_file import read_config

    name = Path(config).stem
    found = [Variant(name, config, cfg_options)]
    head = read_config(config, cfg_options).model.get('decode_head')
    attention = head.get('attention') if isinstance(head, Mapping) else None
    if dtype == 'float32' or not isinstance(attention, Mapping) or 'precision' in attention:
        return found
    if 'precision' in signature(FORMS[attention.get('form', 'certified')]).parameters:
        found.append(Variant(f"{name}, precision='autocast'", config, {**(cfg_options or {}), PRECISION: 'autocast'}))
    return found


def limits(session: Session, name: str, builder: object, dtype: str) -> dict:
    """The limits for the models that are measured by default."""
    if session.configs or builder is not train:
        return {}
    if dtype == 'float32':
        return dict(time_limit=1, memory_limit=1)
    return dict(time_limit=1.1, memory_limit=1.1) if name.endswith("'autocast'") else {}


def run(session: Session) -> None:
    configs = tuple(str(find_config(config)) for config in session.configs or CONFIGS)
    height, width = crop = session.crop or _trained_size(configs[0], session.cfg_options)
    for dtype in session.dtypes:
        options = dict(crop=crop, dtype=dtype, device=session.device)
        first = Variant(Path(configs[0]).stem, configs[0], session.cfg_options)
        peer = first if len(configs) > 1 else None
        others = [v for c in configs[len(configs) > 1 :] for v in variants(c, session.cfg_options, dtype)]

        batch = fitting_batch(session, first.side(train, **options))
        note = '' if batch == session.batch else f'{session.batch} images do not fit'
        for what, builder in (('training step', train), ('inference', infer)):
            for variant in others:
                session.compare(
                    f'{what}, {variant.name}',
                    '-' if peer is None else peer.name,
                    dict(crop=f'{height}x{width}', B=batch, dtype=dtype),
                    variant.side(builder, batch=batch, **options),
                    None if peer is None else peer.side(builder, batch=batch, **options),
                    rounds=3,
                    images=batch,
                    note=note,
                    **limits(session, variant.name, builder, dtype),
                )
