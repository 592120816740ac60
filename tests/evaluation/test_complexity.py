"""FLOPs of the attention kernels, of models and of inverses against counts by hand."""

import json

import pytest
import torch
import torch.nn.functional as F
from helpers.checkout import ROOT
from helpers.tool_case import attention_config, call_tool, write_tool_case, write_weights
from torch import nn

from mmseg_invattn.engine.inference import init_model, random_image
from mmseg_invattn.evaluation.complexity import count_flops, inverse_costs
from mmseg_invattn.layers import FORMS
from mmseg_invattn.models.invertible_parts import invertible_parts
from mmseg_invattn.ops.attention import concatenation_attention, dot_product_attention, mean_concatenation_attention

B, G, N, M, D, E = 2, 3, 20, 12, 8, 16


def features(*sizes: int) -> torch.Tensor:
    return torch.randn(B, G, *sizes)


@pytest.mark.parametrize('attend', [lambda q, k, v: F.scaled_dot_product_attention(q, k, v), dot_product_attention])
def test_attention_kernels(attend):
    flops = count_flops(lambda: attend(features(N, D), features(M, D), features(M, D)))
    assert flops == B * G * (2 * N * M * D + 2 * N * M * D)
    if attend is dot_product_attention:
        flops = count_flops(lambda: attend(features(N, D), features(M, D), features(M, E)))
        assert flops == B * G * (2 * N * M * D + 2 * N * M * E)


def test_sorted_attention():
    alpha, gamma, v = features(N, 1), features(M, 1), features(M, E)
    rows = B * G
    assert count_flops(lambda: concatenation_attention(alpha, gamma, v)) == rows * (
        6 * M * (E + 1) + 5 * N * (E + 1) + N * E
    )
    assert count_flops(lambda: mean_concatenation_attention(alpha, gamma, v)) == rows * (3 * M * E + 3 * N * E)
    long, longer = (
        count_flops(lambda n=n: concatenation_attention(features(n, 1), features(n, 1), features(n, E)))
        for n in (500, 1000)
    )
    assert longer == 2 * long  # not quadratic


@pytest.mark.parametrize(
    'mode, form', [('embedded_gaussian', 'none'), ('gaussian', 'none'), ('l2', 'none'), ('dot_product', 'certified')]
)  # 'none' averages: linear in the pixels
def test_blocks_count_their_attention(mode, form):
    torch.manual_seed(0)
    block, side = FORMS[form](8, mode=mode).eval(), 8
    flops = count_flops(lambda: block(torch.randn(1, 8, side, side)))
    # the scores and the weighted sum, of at least 4 channels each, are 2 N^2 (4 + 4)
    assert flops >= 2 * side**4 * 8
    wide = count_flops(lambda: block(torch.randn(1, 8, 2 * side, 2 * side)))
    assert wide > 8 * flops  # four times the pixels: the attention grows 16-fold, the 1x1 convolutions 4-fold


def test_convolutions_count_two_for_a_multiply_add():
    model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 2, 1))
    assert count_flops(lambda: model(torch.randn(1, 3, 6, 7))) == 2 * 42 * (5 * 3 * 9 + 2 * 5)


@pytest.fixture(scope='module')
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp('case')
    return *write_tool_case(folder), folder


@pytest.mark.parametrize(
    'form, mode',
    [
        ('certified', 'embedded_gaussian'),
        ('certified', 'concatenation'),
        ('certified', 'dot_product'),
        ('coupling', 'gaussian'),
    ],
)
def test_an_inverse_costs_its_evaluations(base, tmp_path, form, mode):
    config = attention_config(tmp_path, base[0], form=form, mode=mode)
    model = init_model(str(config), str(write_weights(config, tmp_path / 'weights.pth')), 'cpu')
    image = random_image(model, (24, 32))  # the ResNet's stem takes every fourth pixel
    assert [name for name, _ in invertible_parts(model)] == ['decode_head.attention']
    (cost,) = inverse_costs(model, image)
    assert cost.shape == (8, 6, 8) and cost.converged and cost.forward > 0
    if form == 'coupling':  # one pass back, one forward to see what is left, and a measure of the steepness
        assert cost.iterations == 1 and cost.inverse >= 2 * cost.forward
    else:  # an evaluation is a forward pass without the skip; then come products among the last 5 steps
        acceleration = 2 * 6**2 * 8 * 6 * 8
        assert cost.iterations >= 2
        assert 0.9 * cost.iterations * cost.forward <= cost.inverse
        # the certificate: an evaluation with more values, and norms of the matrices
        assert cost.inverse <= (cost.iterations + 1) * (cost.forward + acceleration) + 2 * cost.forward
        assert cost.error_bound < 1


def test_an_invertible_backbone(tmp_path, capsys):
    config = tmp_path / 'config.py'
    config.write_text(f"""
_base_ = '{ROOT}/configs/rev_net/fcn_revnet18_1xb8-20k_camvid-360x480.py'
model = dict(backbone=dict(stage_blocks=(1, 1, 1, 1), hidden_channels=(8, 8, 8, 8)))
""")
    out = tmp_path / 'costs.json'
    options = ('--shape', 32, 32, '--device', 'cpu', '--out', out)
    assert call_tool('analysis/complexity', config, *options) is None
    said = capsys.readouterr().out
    assert 'image 32x32' in said and '| backbone ' in said and '3x32x32' in said and ' yes ' in said
    assert '| stored ' in said and '| memory-free (as in the config) ' in said and 'takes memory_free' not in said
    found = json.loads(out.read_text())
    training = found['training']
    assert training['shape'] == [8, 3, 32, 32] and found['inverses'][0]['name'] == 'backbone'
    assert training['steps']['memory-free']['part'] < training['steps']['stored']['part'] / 2
    assert f'{training["steps"]["stored"]["total"] / 2**20:,.1f} MiB |' in said
    with pytest.raises(FileExistsError, match='costs.json would be replaced'):
        call_tool('analysis/complexity', config, *options)


def test_a_classifier(tmp_path, capsys):
    config = tmp_path / 'classifier.py'
    config.write_text("""
model = dict(type='ImageClassifier', backbone=dict(type='PlainConvNet'), in_channels=48, num_classes=10)
train_dataloader = dict(batch_size=5)
""")
    call_tool('analysis/complexity', config, '--shape', 24, 40, '--device', 'cpu')
    said = capsys.readouterr().out
    flops = 2 * 48 * 27 * 12 * 20 + 2 * 48 * 48 * 9 * 6 * 10 + 2 * 48 * 10
    assert f'{flops / 1e6:.4g} M' in said and 'batch of 5, 24x40' in said
    assert 'no part of this model takes memory_free; those that do: InvResNet, InvUNet, RevNet2d' in said
    with pytest.raises(ValueError, match='names no image size'):
        call_tool('analysis/complexity', config, '--device', 'cpu')


@pytest.mark.slow
def test_a_flow(tmp_path, capsys):
    config = tmp_path / 'flow.py'
    config.write_text(f"""
_base_ = '{ROOT}/configs/flow/cifar10_small.py'
model = dict(backbone=dict(stage_blocks=(1, 1, 1), hidden_channels=(4, 4, 4)))
""")
    call_tool('analysis/complexity', config, '--device', 'cpu')
    said = capsys.readouterr().out
    assert 'batch of 64, 32x32' in said and '| stored (as in the config) ' in said and '| memory-free ' in said
    assert 'fails' not in said


def test_the_tool(base, tmp_path, capsys):
    config, weights, _ = base
    call_tool('analysis/complexity', config, weights, '--device', 'cpu')
    said = capsys.readouterr().out
    model = init_model(config, str(weights), 'cpu')
    assert f'{sum(p.numel() for p in model.parameters()):,}' in said and 'image 24x24' in said
    assert 'no part of this model has an inverse' in said
    head = 2 * 24 * 24 * (9 * 8 * 8 + 8 * 3)  # a 3x3 convolution and the classifier, at stride 1
    assert count_flops(lambda: model.decode_head(model.extract_feat(torch.zeros(1, 3, 24, 24)))) - count_flops(
        lambda: model.extract_feat(torch.zeros(1, 3, 24, 24))
    ) in (head, head // 4, head // 16)
    with pytest.raises(FileNotFoundError, match='gone.pth: there is no such checkpoint'):
        call_tool('analysis/complexity', config, tmp_path / 'gone.pth')
    call_tool('analysis/complexity', config, '--fits', '0.01', '--out', tmp_path / 'costs.json', '--device', 'cpu')
    assert '0.01 GiB' in capsys.readouterr().out
    (fits,) = json.loads((tmp_path / 'costs.json').read_text())['fits']
    assert fits['size'] is None or fits['total'] <= fits['budget'] < fits['total_beyond']
    with pytest.raises(ValueError, match='--fits -1 must be above 0'):
        call_tool('analysis/complexity', config, '--fits', '8', '-1')
