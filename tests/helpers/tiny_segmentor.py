"""A segmentor with an InvNLHead small enough to step in a few milliseconds, and a batch for it."""

import torch
from helpers.head_cases import labels, total_loss
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch import Tensor, nn

import mmseg_invattn  # noqa: F401  (registers the head where this runs outside of pytest)


def build_segmentor(
    attention: dict | None = None, size: tuple[int, int] = (16, 16), test_cfg: dict | None = None, channels: int = 8
) -> nn.Module:
    """Weights by the generator of now; its data-dependent start is done, so that what follows has one course."""
    init_default_scope('mmseg')
    model = MODELS.build(
        ConfigDict(
            type='EncoderDecoder',
            data_preprocessor=dict(
                type='SegDataPreProcessor', mean=[120.0] * 3, std=[60.0] * 3, size=size, pad_val=0, seg_pad_val=255
            ),
            backbone=dict(type='PlainConvNet', channels=channels, strides=(2, 1)),
            decode_head=dict(
                type='InvNLHead',
                in_channels=channels,
                in_index=0,
                channels=channels,
                num_classes=3,
                dropout_ratio=0,
                norm_cfg=None,
                concat_input=False,
                align_corners=False,
                loss_decode=dict(type='CrossEntropyLoss'),
                attention=attention or dict(form='certified'),
            ),
            train_cfg=dict(),
            test_cfg=test_cfg or dict(mode='whole'),
        )
    )
    with torch.no_grad():
        model.train()(torch.randn(2, 3, *size))
    return model


def loss_of(model: nn.Module, images: Tensor, samples: list) -> Tensor:
    return total_loss(model(images, samples, mode='loss'))


def batch(size: int = 4, side: int = 16, dtype: torch.dtype = torch.float32) -> tuple[Tensor, list]:
    """Images and their labels."""
    return torch.randn(size, 3, side, side, dtype=dtype), labels(size, side)
