"""Statistics of heads over training, and the pruning of useless ones, against known answers."""

import json

import pytest
import torch
from matplotlib.axes import Axes

from mmseg_invattn.experiments.explore.degenerate_heads import degenerate_heads, without_degenerate_heads
from mmseg_invattn.experiments.explore.head_curves import draw_curves, gaussian_statistics, head_curve
from mmseg_invattn.experiments.explore.relative_attention_report import AttentionLayer, layer_statistics
from mmseg_invattn.layers import RelativeSelfAttention2d, shift_error
from mmseg_invattn.models import SelfAttentionNet


def write_run(path, moments):
    """A file of AttentionCentreHook with one layer of two heads; a moment is (centres, widths alpha)."""
    lines = []
    for iteration, (centre, widths) in enumerate(moments):
        precision = [[[2 * width, 0], [0, 2 * width]] for width in widths]
        layers = {'backbone.layers.0.attention.mixing.encoding': dict(centre=centre, precision=precision)}
        lines.append(json.dumps(dict(iteration=10 * iteration, layers=layers)))
    path.write_text('\n'.join(lines))
    return path


def test_statistics_are_those_of_the_layer():
    torch.manual_seed(0)
    layer = RelativeSelfAttention2d(3, num_heads=4, covariance='full').double()
    encoding = layer.mixing.encoding
    with torch.no_grad():
        encoding.root.mul_(torch.tensor([0.5, 1, 2, 4])[:, None, None])
    found = gaussian_statistics(encoding.centre.detach(), encoding.precision().detach())
    torch.testing.assert_close(found, layer_statistics(AttentionLayer('', layer, torch.zeros(1, 3, 4, 4))))


def test_curve_of_heads_that_sharpen(tmp_path):
    """The first head ends as a shift, the second as a spot of four equal pixels."""
    moments = [([[0, 1], [0.5, 0.5]], (0.1, 0.1)), ([[0, 1], [0.5, 0.5]], (4.0, 4.0))]
    curve = head_curve(write_run(tmp_path / 'a.jsonl', moments))
    assert curve['iterations'] == [0, 10] and list(curve['layers']) == ['backbone.layers.0.attention']
    layer = curve['layers']['backbone.layers.0.attention']
    assert layer['heads'] == 2 and layer['near'] == [0, 1] and shift_error(4.0) < 0.5
    assert layer['spread'][0] == pytest.approx((2 / 0.2) ** 0.5, rel=1e-3)  # a variance of 1 / (2 alpha) an axis
    assert layer['spread'][1] < 0.8
    assert layer['distance'][0] == pytest.approx(0.5**0.5, rel=1e-3)  # median takes the lower of two


def test_curves_are_drawn_with_the_mean_of_the_moments_that_all_runs_have(tmp_path, monkeypatch):
    drawn, plot = [], Axes.plot

    def recorded(axis, x, y, **style):
        drawn.append((list(x), list(y), style))
        return plot(axis, x, y, **style)

    monkeypatch.setattr(Axes, 'plot', recorded)
    wide, narrow = ([[0, 1], [0, 0]], (0.1, 0.1)), ([[0, 1], [0, 0]], (4, 0.1))
    files = [write_run(tmp_path / f'{len(m)}.jsonl', m) for m in ([wide, narrow], [wide, wide, narrow])]
    draw_curves([head_curve(file) for file in files], tmp_path / 'curves.png')
    share = [line for line in drawn if max(line[1]) <= 1]
    assert [line[:2] for line in share] == [([0, 10], [0, 0.5]), ([0, 10, 20], [0, 0, 0.5]), ([0, 10], [0, 0.25])]
    assert share[-1][2]['label'] == 'layer 1' and (tmp_path / 'curves.png').stat().st_size > 1000


@pytest.mark.parametrize('covariance', ['isotropic', 'axis', 'full'])
def test_rule_of_degenerate_heads(covariance):
    """Everywhere: both inverse variances below 1e-5. Along a line: one more than 1000 times the other."""
    encoding = RelativeSelfAttention2d(1, num_heads=3, covariance=covariance).mixing.encoding
    with torch.no_grad():
        encoding.root.copy_(torch.eye(2).expand(3, 2, 2) if covariance == 'full' else torch.ones_like(encoding.root))
        encoding.root[0] *= 0.003
        if covariance == 'isotropic':
            encoding.root[2] *= 0.0033
        elif covariance == 'axis':
            encoding.root[2, 1] *= 0.03
        else:  # a line at an angle, and not symmetric
            turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]])
            encoding.root[2] = turn @ torch.diag(torch.tensor([1.0, 0.03])) @ turn
    assert degenerate_heads(encoding).tolist() == [True, False, covariance != 'isotropic']


@pytest.mark.parametrize('arguments', [{}, dict(head_channels=3), dict(content='both', key_channels=2)])
def test_pruned_network_is_the_one_with_the_heads_left(arguments):
    """The weights fit a network with fewer heads, and what it computes is what the others contributed."""
    torch.manual_seed(0)
    size = dict(patch_size=2, channels=6, num_layers=2, feedforward_channels=4, out_indices=(1,), dropout=0.0)
    net = SelfAttentionNet(num_heads=3, attention=arguments, **size)
    with torch.no_grad():
        net.layers[0].attention.mixing.encoding.root[1] = 1e-4
        net.layers[1].attention.mixing.encoding.root[:2] = 1e-4
    state, left = without_degenerate_heads(net)
    assert left == [2, 1]
    pruned = SelfAttentionNet(num_heads=left, attention=arguments, **size)
    pruned.load_state_dict(state)
    for layer, dropped in ((0, [1]), (1, [0, 1])):
        with torch.no_grad():
            net.layers[layer].attention.weight[:, dropped] = 0
    x = torch.randn(2, 3, 8, 6)
    torch.testing.assert_close(pruned(x)[0], net(x)[0])


def test_what_cannot_be_pruned():
    net = SelfAttentionNet(channels=4, num_layers=1, num_heads=2, out_indices=(0,))
    with torch.no_grad():
        net.layers[0].attention.mixing.encoding.root.zero_()
    with pytest.raises(ValueError, match='all of its 2 heads are degenerate'):
        without_degenerate_heads(net)
    net = SelfAttentionNet(channels=4, num_layers=1, attention=dict(encoding='learned_2d'), out_indices=(0,))
    with pytest.raises(ValueError, match='layers.0.attention has no quadratic encoding'):
        without_degenerate_heads(net)
