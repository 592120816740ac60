"""Any tool run in this process, and a config with weights for it that were never trained."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

import torch
from helpers.runtime_case import load_tool, write_case
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS


def call_tool(name: str, *arguments: object) -> int | None:
    """What ``main`` of tools/NAME.py returns for a command line; one thread, the environment as before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with mock.patch.dict(os.environ):
            return load_tool(name).main([str(argument) for argument in arguments])
    finally:
        torch.set_num_threads(threads)


def write_weights(config: str | Path, path: Path, seed: int = 0, **more: object) -> Path:
    """A checkpoint of random weights for a config; ``more`` stands beside them."""
    init_default_scope('mmseg')
    model = MODELS.build(Config.fromfile(config).model)
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: torch.randn(w.shape, generator=generator) if w.is_floating_point() else w
        for name, w in model.state_dict().items()
    }
    torch.save(dict(state_dict=weights, meta={}, **more), path)
    return path


def write_tool_case(folder: Path) -> tuple[str, Path]:
    """The config of ``runtime_case`` and weights for it."""
    config = write_case(folder)
    return config, write_weights(config, folder / 'weights.pth')


def attention_config(folder: Path, base: str, **attention: object) -> Path:
    """The config with invertible attention in its head."""
    path = folder / f'attention_{"_".join(map(str, attention.values()))}.py'
    path.write_text(f"""
_base_ = '{base}'
model = dict(decode_head=dict(_delete_=True, type='InvNLHead', in_channels=8, channels=8, num_classes=3,
                              dropout_ratio=0, norm_cfg=dict(type='GN', num_groups=2), align_corners=False,
                              loss_decode=dict(type='CrossEntropyLoss'), attention={attention!r}))
""")
    return path
