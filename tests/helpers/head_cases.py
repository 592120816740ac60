"""The inverted heads at the size of a test, and their ordinary counterparts."""

import torch
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

COMMON = dict(
    in_channels=8,
    in_index=1,
    channels=8,
    num_classes=3,
    dropout_ratio=0,
    align_corners=False,
    norm_cfg=dict(type='GN', num_groups=2),
    loss_decode=dict(type='CrossEntropyLoss'),
)
SKIP = dict(type='InvDepthwiseSeparableASPPHead', dilations=(1, 3))
HEADS = dict(
    nl=dict(type='InvNLHead'),
    da=dict(type='InvDAHead'),
    da_skip=dict(type='InvDAHead', c1_in_channels=4, c1_channels=2),
    skip=dict(type='InvSkipHead', c1_in_channels=4, c1_channels=2),
    aspp=dict(type='InvASPPHead', dilations=(1, 3)),
    sep_aspp=dict(**SKIP, c1_in_channels=4, c1_channels=2),
    sep_aspp_no_skip=dict(**SKIP, c1_in_channels=0, c1_channels=2),
    psp=dict(type='InvPSPHead', pool_scales=(1, 2)),
    fcn=dict(type='InvFCNHead', num_convs=1, num_blocks=2),
    fcn_no_convs=dict(type='InvFCNHead', num_convs=0, concat_input=False, attention=[dict(), dict(mode='l2')]),
)


def build_head(name: str, **override) -> torch.nn.Module:
    """A head of :data:`HEADS`; ``form`` goes to every block of its attention."""
    cfg = COMMON | HEADS[name] | override
    form = cfg.pop('form', 'certified')
    attention = cfg.get('attention', dict())
    cfg['attention'] = (
        [dict(form=form) | block for block in attention] if isinstance(attention, list) else dict(form=form) | attention
    )
    return MODELS.build(cfg)


def features(batch: int = 2, size: int = 6, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Two levels, of 4 and 8 channels, the first twice as large."""
    return [torch.randn(batch, 4, 2 * size, 2 * size, dtype=dtype), torch.randn(batch, 8, size, size, dtype=dtype)]


def labels(batch: int = 2, size: int = 12, classes: int = 3) -> list[SegDataSample]:
    samples = [SegDataSample() for _ in range(batch)]
    for sample in samples:
        sample.gt_sem_seg = PixelData(data=torch.randint(0, classes, (1, size, size)))
    return samples


def total_loss(losses: dict) -> torch.Tensor:
    return sum(value for name, value in losses.items() if 'loss' in name)


def without_gradient(module: torch.nn.Module) -> list[str]:
    """Parameters that no gradient reached, or one that is not finite."""
    return [name for name, p in module.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
