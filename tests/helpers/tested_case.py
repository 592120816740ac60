"""Configs beside that of ``runtime_case``: other images, one channel of logits, folders, splits without labels."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from mmseg_invattn.visualization.model_input import read_image

KINDS = {
    # name -> (channels, type, largest value + 1, arguments of the loader, mean)
    'grey': (1, np.uint8, 256, dict(color_type='grayscale'), [120.0]),
    'deep': (1, np.uint16, 65536, dict(color_type='unchanged', imdecode_backend='cv2'), [30000.0]),
    'deep_colour': (3, np.uint16, 65536, dict(color_type='unchanged', to_float32=True), [30000.0] * 3),
    'four': (4, np.uint8, 256, dict(color_type='unchanged'), [120.0]),
}


def write_images_of(folder: Path, kind: str) -> Path:
    """Images of another kind beside those of ``write_case``; the folder."""
    channels, dtype, top, _, _ = KINDS[kind]
    generator = np.random.default_rng(1)
    path = folder / 'data' / kind
    if path.exists():
        return path
    path.mkdir(parents=True)
    for i in range(8):
        size = (28, 28) if channels == 1 else (28, 28, channels)
        cv2.imwrite(str(path / f'{i}.png'), generator.integers(0, top, size).astype(dtype))
    return path


def config_of(folder: Path, base: str, kind: str) -> Path:
    """A config that reads these images; its variable ``test_pipeline`` is a leftover that reads them otherwise."""
    channels, _, top, loader, mean = KINDS[kind]
    path = folder / f'{kind}.py'
    path.write_text(f"""
_base_ = '{base}'
model = dict(
    data_preprocessor=dict(mean={mean}, std={[top / 4] * len(mean)}, bgr_to_rgb=False),
    backbone=dict(_delete_=True, type='PlainConvNet', in_channels={channels}, channels=8, strides=(2, 1)),
    decode_head=dict(_delete_=True, type='InvNLHead', in_channels=8, in_index=0, channels=8, num_classes=3,
                     dropout_ratio=0, norm_cfg=None, concat_input=False, align_corners=False,
                     loss_decode=dict(type='CrossEntropyLoss')))
loading = dict(type='LoadImageFromFile', **{loader!r})
used = [loading, dict(type='Resize', scale=(32, 32)), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]
train_dataloader = dict(dataset=dict(
    data_prefix=dict(img_path='{kind}'), pipeline=[loading, dict(type='LoadAnnotations'), dict(type='PackSegInputs')]))
val_dataloader = dict(dataset=dict(data_prefix=dict(img_path='{kind}'), pipeline=used))
test_dataloader = dict(_delete_=True, batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='RepeatDataset', times=1, dataset=dict(
        type='BaseSegDataset', data_root='{folder / 'data'}', img_suffix='.png', seg_map_suffix='.png', indices=4,
        data_prefix=dict(img_path='{kind}', seg_map_path='labels'), metainfo=dict(classes=('a', 'b', 'c')),
        pipeline=used)))
""")
    return path


def one_channel_config(folder: Path, base: str, head: str = 'FCNHead', more: str = '') -> Path:
    """A config for two classes with one channel of logits; every augmentation of ``tta_pipeline`` leaves the image."""
    path = folder / f'one_{head}.py'
    own = 'num_convs=1, concat_input=False, ' if head == 'FCNHead' else ''
    path.write_text(f"""
_base_ = '{base}'
classes = dict(classes=('ground', 'thing'), palette=[[0, 0, 0], [0, 255, 0]])
model = dict(
    decode_head=dict(
        _delete_=True, type='{head}', in_channels=8, in_index=0, channels=8, num_classes=2, out_channels=1, {own}
        threshold=0.3, dropout_ratio=0, norm_cfg=dict(type='GN', num_groups=2), align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True)){more})
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TestTimeAug', transforms=[
        [dict(type='Resize', scale_factor=1.0, keep_ratio=True), dict(type='Resize', scale=(28, 28))],
        [dict(type='LoadAnnotations')], [dict(type='PackSegInputs')]])]
train_dataloader = dict(dataset=dict(metainfo=dict(_delete_=True, **classes)))
val_dataloader = dict(dataset=dict(data_prefix=dict(seg_map_path='two'), metainfo=dict(_delete_=True, **classes)))
test_dataloader = val_dataloader
""")
    return path


def write_two_labels(folder: Path) -> None:
    """Labels 0 and 1 beside those of ``write_case``."""
    generator = np.random.default_rng(2)
    (folder / 'data' / 'two').mkdir()
    for i in range(8):
        cv2.imwrite(str(folder / 'data' / 'two' / f'{i}.png'), generator.integers(0, 2, (28, 28), dtype=np.uint8))


def write_sub_folders(folder: Path) -> Path:
    """The first four images and labels of ``write_case`` in two sub-folders, with the same names in both."""
    root = folder / 'nested'
    for place, sub in enumerate('ab'):
        for kind in ('images', 'labels'):
            (root / kind / sub).mkdir(parents=True)
            for i in range(2):
                content = (folder / 'data' / kind / f'{i + 2 * place}.png').read_bytes()
                (root / kind / sub / f'{i}.png').write_bytes(content)
    return root


def balance(model: nn.Module, image: Path, weights: Path, middle: float = 0.0) -> None:
    """Bring the logits of an image to a spread of one half around ``middle``, so that every class occurs, and save."""
    last, pixels = model.decode_head.conv_seg, read_image(model, image)[1]
    size = tuple(pixels.shape[2:])
    with torch.no_grad():
        logits = model.encode_decode(pixels, [dict(img_shape=size, pad_shape=size, ori_shape=size)])
        mean, scale = logits.mean((0, 2, 3)), 0.5 / logits.std((0, 2, 3)).clamp(min=1e-6)
        last.weight.mul_(scale[:, None, None, None])
        last.bias.copy_(scale * (last.bias - mean) + middle)
    torch.save(dict(state_dict=model.state_dict(), meta={}), weights)
