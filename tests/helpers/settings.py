"""Settings in which an error bound has to hold: any layer, dtype, scale and shape, ordinary ones and extreme ones.

A setting is a few words and numbers, so that a failure prints as what makes it happen again.
"""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from mmseg_invattn.layers import (
    ActNorm2d,
    AdditiveCoupling,
    AffineCoupling,
    CertifiedAttention2d,
    ConditionalAttention2d,
    CouplingAttention2d,
    InvChannelAttention,
    InvConv1x1,
    InvConvResidual,
    InvertibleModule,
    InvertibleSequential,
    InvRelativeAttention2d,
    OrthogonalConv1x1,
    Split,
    Squeeze,
)

MODES = ('gaussian', 'embedded_gaussian', 'dot_product', 'concatenation', 'l2')
ATTENTION = (CertifiedAttention2d, ConditionalAttention2d, CouplingAttention2d)
LAYERS = (
    *ATTENTION,
    *ATTENTION,  # more of them than of the others
    *ATTENTION,
    InvChannelAttention,
    InvConvResidual,
    InvRelativeAttention2d,
    ActNorm2d,
    InvConv1x1,
    OrthogonalConv1x1,
    AdditiveCoupling,
    AffineCoupling,
    Squeeze,
    InvertibleSequential,
)
WEIGHTS = ('fresh', 'trained', 'large', 'small', 'opposite', 'cancelling', 'far', 'biased', 'ordered')
FEATURES = ('normal', 'rectified', 'constant', 'one loud pixel', 'one loud channel', 'alternating', 'ordered', 'zero')


@dataclass(frozen=True)
class Setting:
    """What makes a layer and its input."""

    layer: type
    mode: str
    channels: int
    heads: int
    position: str | None
    neighbourhood: str
    sharpness: float | str
    contraction: float
    parameters: torch.dtype
    features: torch.dtype
    weights: str
    kind: str
    scale: float
    size: tuple[int, int]
    started: bool
    seed: int
    precision: str = 'float32'
    autocast: torch.dtype | None = None  # around the forward pass
    max_iter: int = 100  # of the inverse: what it reached has its bound, too


def settings(
    largest: int = 12, precisions: tuple[str, ...] = ('float32', 'float32', 'float32', 'autocast')
) -> st.SearchStrategy[Setting]:
    """Settings with maps of at most ``largest`` pixels a side."""
    side = st.one_of(st.just(1), st.integers(1, 4), st.integers(1, largest))
    return st.builds(
        Setting,
        layer=st.sampled_from(LAYERS),
        mode=st.sampled_from(MODES),
        channels=st.sampled_from((4, 8, 12, 32)),
        heads=st.sampled_from((1, 1, 2)),
        position=st.sampled_from((None, None, 'learned', 'quadratic')),
        neighbourhood=st.sampled_from(('full', 'full', 'full', 'window', 'criss_cross')),
        sharpness=st.sampled_from((2.0, 1e-3, 0.5, 6.0, 30.0, 'learned', 'log_n')),
        contraction=st.sampled_from((0.9, 0.9, 0.5, 0.99, 0.999)),
        parameters=st.sampled_from((torch.float32, torch.float32, torch.float64, torch.bfloat16)),
        features=st.sampled_from((torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16)),
        weights=st.sampled_from(WEIGHTS),
        kind=st.sampled_from(FEATURES),
        scale=st.one_of(
            st.just(1.0), st.floats(-30, 30).map(lambda e: 10.0**e), st.floats(-3, 3).map(lambda e: 10.0**e)
        ),
        size=st.tuples(side, side),
        started=st.booleans(),
        seed=st.integers(0, 2**31),
        precision=st.sampled_from(precisions),
        autocast=st.sampled_from((None, torch.bfloat16, torch.float16)),
        max_iter=st.sampled_from((100, 20, 20, 5, 1)),
    )


def features(setting: Setting, generator: torch.Generator, batch: int = 4) -> Tensor:
    """x, (B, C, H, W), finite in its dtype; of large maps one, so that more settings fit in the time."""
    height, width = setting.size
    shape = (batch if height * width < 1024 else 1, setting.channels, height, width)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    if setting.kind == 'rectified':
        x = x.relu()
    elif setting.kind == 'constant':
        x = x[:, :, :1, :1].expand(shape).clone()
    elif setting.kind == 'one loud pixel':
        x[..., 0, 0] *= 1e3
    elif setting.kind == 'one loud channel':
        x[:, 0] *= 1e3
    elif setting.kind == 'alternating':
        x = x[:, :, :1, :1] * (1 - 2 * (torch.arange(shape[3]) % 2)).double().expand(shape)
    elif setting.kind == 'ordered':
        x = x.sort(1).values
    elif setting.kind == 'zero':
        x = x * 0
    largest = torch.finfo(setting.features).max / 1e3
    return (x * setting.scale).clamp(-largest, largest).to(setting.features)


def forward(setting: Setting, layer: InvertibleModule, x: Tensor) -> Tensor | tuple[Tensor, ...]:
    """``layer(x)`` under the autocast of the setting."""
    with torch.no_grad(), torch.autocast('cpu', setting.autocast, enabled=setting.autocast is not None):
        return layer(x)


def build(setting: Setting, generator: torch.Generator) -> InvertibleModule:
    """The layer with weights of their kind; 'fresh' where a kind means nothing to it."""
    torch.manual_seed(setting.seed)
    layer = _layer(setting).to(setting.parameters)
    if setting.started:
        x = features(setting, generator)
        layer.train()(x)
    layer.eval()
    if setting.weights == 'trained':
        _train(layer, setting, generator)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            _change(name, parameter, setting, generator)
    return layer


def _layer(setting: Setting) -> InvertibleModule:
    s, c = setting, setting.channels
    precision = dict(precision=s.precision)
    attention = dict(mode=s.mode, num_heads=s.heads, reduction=1 if s.seed % 2 else 2, bias=s.seed % 3 > 0)
    if s.position and s.neighbourhood in ('full', 'window', 'criss_cross'):
        attention['position'] = s.position
    if s.neighbourhood == 'window':
        attention.update(neighbourhood='window', window_size=3, window_shift=s.seed % 3)
    elif s.neighbourhood == 'criss_cross':
        attention.update(neighbourhood='criss_cross')
    elif s.seed % 5 == 0:
        attention['key_pooling'] = 2
    if s.layer is CouplingAttention2d:
        return CouplingAttention2d(c, **precision, **attention)
    if s.layer in ATTENTION:
        shared = s.heads > 1 and s.seed % 4 == 0
        own = dict(contraction=s.contraction, sharpness=s.sharpness, heads='shared' if shared else 'grouped')
        return s.layer(c, **own, **precision, **attention)
    if s.layer is InvChannelAttention:
        sharpness = s.sharpness if s.sharpness != 'log_n' else 2.0
        return InvChannelAttention(c, s.contraction, sharpness, s.seed % 2 == 0, **precision)
    if s.layer is InvConvResidual:
        return InvConvResidual(c, kernel_sizes=((3, 1, 3), (1, 1), (3,))[s.seed % 3], contraction=s.contraction)
    if s.layer is InvRelativeAttention2d:
        return InvRelativeAttention2d(c, contraction=s.contraction)
    if s.layer in (AdditiveCoupling, AffineCoupling):
        out = c // 2 * (1 if s.layer is AdditiveCoupling else 2)
        net = nn.Sequential(nn.Conv2d(c // 2, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, out, 3, padding=1))
        return s.layer(c, net, swap=s.seed % 2 == 0)
    if s.layer is Squeeze:
        return Squeeze(1)
    if s.layer is InvertibleSequential:
        first = CertifiedAttention2d(c, contraction=s.contraction, **precision, **attention)
        last = Split(c) if s.seed % 2 else InvConv1x1(c)
        return InvertibleSequential(ActNorm2d(c), OrthogonalConv1x1(c), first, last)
    return s.layer(c)


def _train(layer: nn.Module, setting: Setting, generator: torch.Generator) -> None:
    """A few steps with a large learning rate, on features of the layer's own kind."""
    parameters = [p for p in layer.parameters() if p.requires_grad]
    if not parameters:
        return
    optimizer = torch.optim.AdamW(parameters, lr=0.1, weight_decay=0)
    for _ in range(3):
        x = features(setting, generator, 2).to(torch.promote_types(setting.features, torch.float32))
        y = layer(x)
        y = y if isinstance(y, Tensor) else y[0]
        loss = (y / max(setting.scale, 1e-20)).double().square().mean()
        optimizer.zero_grad()
        loss.backward()
        if all(p.grad is None or p.grad.isfinite().all() for p in parameters):
            optimizer.step()


def _change(name: str, parameter: Tensor, setting: Setting, generator: torch.Generator) -> None:
    kind, noise = setting.weights, torch.randn(parameter.shape, generator=generator).to(parameter)
    if kind == 'large':
        parameter.mul_(30.0 if 'log' in name or 'raw' in name else 1e4)
        if 'log' in name or 'raw' in name:
            parameter.clamp_(-20, 20)
    elif kind == 'small':
        parameter.mul_(1e-5)
    elif kind == 'opposite' and parameter.dim() >= 2 and name.startswith(('value', 'out', 'weight', 'second.value')):
        sign = -1.0 if name.startswith(('out', 'weight')) else 1.0
        parameter.copy_(sign * torch.eye(*parameter.shape[-2:]).expand_as(parameter))
    elif kind == 'cancelling' and parameter.dim() >= 2 and parameter.shape[-2] > 1:
        parameter[..., 1, :] = parameter[..., 0, :] * 1e3 * (1 + 1e-3 * noise[..., 0, :])
        parameter[..., 0, :] *= 1e3
    elif kind == 'far' and name.split('.')[-1] in ('centre', 'row', 'column'):
        parameter.add_(noise * 100)
    elif kind == 'biased' and name.endswith('bias'):
        parameter.add_(noise * 100)
    elif kind == 'ordered' and parameter.dim() >= 2:
        parameter.copy_(parameter.sort(-1).values)
