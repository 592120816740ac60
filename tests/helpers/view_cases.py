"""Attention to look at: blocks of every kind, their true weights, and a small model on disk for the tools."""

import itertools
import sys
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import torch
from helpers.block_cases import settled
from helpers.runtime_case import load_tool
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch import Tensor, nn

from mmseg_invattn.experiments.explore.attention_adapters import attention_views
from mmseg_invattn.experiments.explore.attention_view import AttentionView
from mmseg_invattn.layers import FORMS, PaperAttention2d
from mmseg_invattn.layers.attention.attention import Attention
from mmseg_invattn.layers.attention.modes import MODES
from mmseg_invattn.layers.attention.paper import FACTOR

SIZE = (5, 6)
PARTS = dict(
    learned=dict(position='learned', position_size=3),
    quadratic=dict(position='quadratic'),
    strided_keys=dict(key_pooling=2, position='learned'),
    pyramid=dict(key_pooling=(1, 2, 4)),
    criss_cross=dict(neighbourhood='criss_cross', position='quadratic'),
    window=dict(neighbourhood='window', window_size=3, window_shift=1, position='learned'),
)
# Every mode in every form, and every part with some.
CASES = {f'{form}-{mode}': dict(form=form, mode=mode) for form, mode in itertools.product(FORMS, MODES)}
CASES |= {
    f'{form}-{mode}-{name}': dict(form=form, mode=mode, **part)
    for (form, mode), (name, part) in itertools.product(
        [('certified', 'embedded_gaussian'), ('conditional', 'concatenation'), ('coupling', 'l2')], PARTS.items()
    )
}


def make_block(case: dict, spread: float = 2.0, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor]:
    """A block with two heads and weights that differ from pixel to pixel, and what it sees."""
    torch.manual_seed(0)
    block = FORMS[case['form']](16, num_heads=2, **{k: v for k, v in case.items() if k != 'form'}).to(dtype)
    x = spread * torch.randn(1, 16, *SIZE, dtype=dtype)
    settled(block, x)
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            if 'query' in name or 'key' in name or name.endswith(('.row', '.column')):
                parameter.mul_(3)
    return block.eval(), x


def views_of(block: nn.Module, x: Tensor) -> list[AttentionView]:
    """The view of each attention of a block, by what it sees in a forward pass."""
    return [view for _, view in attention_views(block, lambda: block(x))]


def true_weights(block: nn.Module, x: Tensor) -> list[Tensor]:
    """Weights (H, N, pixels) of each attention in a block, by its own kernel with the identity as values."""
    caught, mixer = [], Attention.mixer

    def spy(self: Attention, *args) -> Tensor:
        caught.append((self.options.num_heads, mix := mixer(self, *args)))
        return mix

    with mock.patch.object(Attention, 'mixer', spy), torch.no_grad():
        block(x)
    eye = torch.eye(SIZE[0] * SIZE[1], dtype=x.dtype)
    factor = 1 / FACTOR if isinstance(block, PaperAttention2d) else 1
    return [factor * mix(eye.expand(1, heads, -1, -1))[0] for heads, mix in caught]


def write_model(folder: Path, head: dict, side: tuple[int, int] = (24, 32)) -> tuple[str, str, str]:
    """A config, a checkpoint with weights as they start, and an image.

    Args:
        folder: where to.
        head: type and arguments of the decode head, or ``backbone``.

    Returns:
        The three paths.
    """
    backbone = head.pop('backbone', dict(type='PlainConvNet', channels=8, strides=(2, 1)))
    common = dict(
        in_channels=8,
        in_index=0,
        channels=8,
        num_classes=3,
        dropout_ratio=0,
        norm_cfg=None,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss'),
    )
    cfg = Config(
        dict(
            custom_imports=dict(imports=['mmseg_invattn']),
            default_scope='mmseg',
            model=dict(
                type='EncoderDecoder',
                backbone=backbone,
                decode_head=common | head,
                train_cfg=dict(),
                test_cfg=dict(mode='whole'),
                data_preprocessor=dict(
                    type='SegDataPreProcessor',
                    mean=[120.0] * 3,
                    std=[60.0] * 3,
                    bgr_to_rgb=True,
                    pad_val=0,
                    seg_pad_val=255,
                    test_cfg=dict(size_divisor=8),
                ),
            ),
            test_pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')],
        )
    )
    config, checkpoint, image = (str(folder / name) for name in ('model.py', 'model.pth', 'street.png'))
    cfg.dump(config)
    torch.manual_seed(0)
    init_default_scope('mmseg')
    model = MODELS.build(cfg.model)
    with torch.no_grad():  # the start that depends on the data, and attention that is not the identity
        model.train()(torch.randn(2, 3, *side))
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    torch.save(
        dict(
            state_dict=model.state_dict(),
            meta=dict(dataset_meta=dict(classes=('a', 'b', 'c'), palette=[[0, 0, 0], [0, 255, 0], [0, 0, 255]])),
        ),
        checkpoint,
    )
    cv2.imwrite(image, np.random.default_rng(0).integers(0, 256, (*side, 3), dtype=np.uint8))
    return config, checkpoint, image


def run_tool(name: str, *arguments: object) -> int | None:
    """Run tools/NAME.py in this process; its exit status."""
    with mock.patch.object(sys, 'argv', [name, *map(str, arguments)]):
        return load_tool(name).main()
