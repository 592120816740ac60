"""Whole models from their configs: a training step and inference, on random images."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from ...paths import find_config
from .memory import Side, available
from .session import Session
from .timing import Step

CONFIGS = tuple(
    f'{name}_4xb2-40k_cityscapes-512x1024.py' for name in ('nonlocal/nonlocal_r50-d8', 'invnl/invnl_r50-d8')
)


def build(
    config: str, crop: tuple[int, int], device: str, cfg_options: Mapping | None = None
) -> tuple[nn.Module, object]:
    """The model with random weights, for crops of this size, and its config. SyncBN becomes BN: one process."""
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
    """Random images and labels as a data loader gives them."""
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
    """Forward, loss, backward and the optimiser's step, by the config's optimiser."""
    from mmengine.optim import build_optim_wrapper

    model, cfg = build(config, crop, device, cfg_options)
    optimiser = build_optim_wrapper(model, cfg.optim_wrapper)
    data = batch_of(model, crop, batch)
    model.train()

    def step() -> None:
        with torch.autocast(torch.device(device).type, getattr(torch, dtype), enabled=dtype != 'float32'):
            model.train_step(data, optimiser)

    return step


def infer(
    config: str, crop: tuple[int, int], batch: int, dtype: str, device: str, cfg_options: Mapping | None = None
) -> Step:
    model, _ = build(config, crop, device, cfg_options)
    data = batch_of(model, crop, batch)
    model.eval()

    @torch.no_grad()
    def step() -> None:
        with torch.autocast(torch.device(device).type, getattr(torch, dtype), enabled=dtype != 'float32'):
            model.test_step(data)

    return step


def fitting_batch(session: Session, side: Side) -> int:
    """The batch asked for, or 1 where that would not fit, as far as the memory of one image tells."""
    if session.batch == 1:
        return 1
    need = session.batch * session.usage(side.with_options(batch=1)).memory
    return session.batch if need < 0.8 * available(session.device) else 1


def _trained_size(config: str, cfg_options: Mapping | None) -> tuple[int, int]:
    from ...datasets.image_size import image_size
    from ...engine.config_file import read_config

    return image_size(read_config(config, cfg_options))


def run(session: Session) -> None:
    configs = tuple(str(find_config(config)) for config in session.configs or CONFIGS)
    limits = {} if session.configs else dict(time_limit=1, memory_limit=1)
    height, width = crop = session.crop or _trained_size(configs[0], session.cfg_options)
    tiny = dict(crop=(64, 64), batch=2)
    for dtype in session.dtypes:
        options = dict(crop=crop, dtype=dtype, device=session.device, cfg_options=session.cfg_options)
        batch = fitting_batch(session, Side(train, options | dict(config=configs[0]), tiny))
        note = '' if batch == session.batch else f'{session.batch} images do not fit'
        for what, builder in (('training step', train), ('inference', infer)):
            sides = [Side(builder, options | dict(config=config, batch=batch), tiny) for config in configs]
            peer = sides[0] if len(sides) > 1 else None
            for config, side in list(zip(configs, sides, strict=True))[len(sides) > 1 :]:
                session.compare(
                    f'{what}, {Path(config).stem}',
                    '-' if peer is None else Path(configs[0]).stem,
                    dict(crop=f'{height}x{width}', B=batch, dtype=dtype),
                    side,
                    peer,
                    rounds=3,
                    images=batch,
                    note=note,
                    **(limits if builder is train else {}),
                )
