"""Layers and functions as files of torch.export and ONNX, without MMSegmentation."""

import importlib.util

import pytest
import torch
from torch import nn

from mmseg_invattn.layers import (
    ActNorm2d,
    AdditiveCoupling,
    CertifiedAttention2d,
    InvChannelAttention,
    InvConv1x1,
    InvConvResidual,
    InvertibleSequential,
    InvRelativeAttention2d,
    OrthogonalConv1x1,
    RelativeSelfAttention2d,
    Split,
    Squeeze,
)
from mmseg_invattn.layers.contract import outputs
from mmseg_invattn.layers.export import export_onnx, export_torch
from mmseg_invattn.ops.attention import softmax_attention

WITH_ONNX = all(importlib.util.find_spec(name) for name in ('onnx', 'onnxscript', 'onnxruntime'))
LAYERS = dict(
    actnorm=lambda: ActNorm2d(4),
    channel=lambda: InvChannelAttention(4),
    conv1x1=lambda: InvConv1x1(4),
    coupling=lambda: AdditiveCoupling(4, nn.Conv2d(2, 2, 3, padding=1)),
    orthogonal=lambda: OrthogonalConv1x1(4),
    position=lambda: InvRelativeAttention2d(4, 2),
    relative=lambda: RelativeSelfAttention2d(4, num_heads=2, content='both', window=4),
    residual=lambda: InvConvResidual(4),
    # with extra outputs
    sequence=lambda: InvertibleSequential(Squeeze(), InvConv1x1(16), Split(16), CertifiedAttention2d(8)),
)


def check_file(exported, model, *shapes):
    for batch in (1, 3):
        inputs = [torch.randn(batch, *shape) for shape in shapes]
        with torch.no_grad():
            expected = outputs(model(*inputs))
        got = outputs(exported(*inputs))
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            assert one.shape == other.shape and other.std() > 0.01
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def moved(name):
    """The layer, away from where it starts."""
    torch.manual_seed(0)
    layer = LAYERS[name]()
    with torch.no_grad():
        for p in layer.parameters():
            p += 0.1 * torch.randn_like(p)
    return layer.eval()


@pytest.mark.parametrize('name', LAYERS)
def test_layers(name, tmp_path):
    layer = moved(name)
    check_file(export_torch(layer, torch.randn(1, 4, 6, 8), tmp_path / 'layer.pt2'), layer, (4, 6, 8))


@pytest.mark.skipif(not WITH_ONNX, reason='onnx, onnxscript and onnxruntime are not installed')
@pytest.mark.parametrize('name', LAYERS)
def test_layers_in_onnx(name, tmp_path):
    layer = moved(name)
    check_file(export_onnx(layer, torch.randn(1, 4, 6, 8), tmp_path / 'layer.onnx'), layer, (4, 6, 8))


def test_a_function_of_several_inputs(tmp_path):
    shapes = (2, 5, 3), (2, 7, 3), (2, 7, 4)
    inputs = tuple(torch.randn(1, *shape) for shape in shapes)
    check_file(export_torch(softmax_attention, inputs, tmp_path / 'op.pt2'), softmax_attention, *shapes)


def test_training_mode_is_refused(tmp_path):
    x = torch.randn(1, 4, 6, 8)
    with pytest.raises(ValueError, match=r'CertifiedAttention2d is in training mode.*call \.eval\(\)'):
        export_torch(CertifiedAttention2d(4), x, tmp_path / 'layer.pt2')
    model = nn.Sequential(CertifiedAttention2d(4)).eval()
    model[0].norm.train()
    with pytest.raises(ValueError, match=r'0\.norm is in training mode'):
        export_torch(model, x, tmp_path / 'layer.pt2')
    assert not list(tmp_path.iterdir())
