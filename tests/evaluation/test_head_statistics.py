"""Statistics of heads against known answers."""

import math

import pytest
import torch
from torch import nn

from mmseg_invattn.experiments.explore.relative_attention_report import AttentionLayer, layer_statistics, seen_layers
from mmseg_invattn.layers import RelativeSelfAttention2d
from mmseg_invattn.layers.convolution.statistics import head_statistics
from mmseg_invattn.ops.attention import pixel_grid


def grid(height: int, width: int) -> torch.Tensor:
    return pixel_grid((height, width), torch.zeros(1))


def test_uniform_attention():
    place = grid(4, 5)
    found = head_statistics(torch.full((2, 3, 20, 20), 1 / 20), place, place)
    assert found.centre.abs().max() < 1e-6 and found.entropy == pytest.approx([math.log(20)] * 3)
    assert found.spread == pytest.approx([math.sqrt(15 / 12 + 2)] * 3) and found.tap_weight == pytest.approx([0.05] * 3)


def test_a_shift_is_a_tap():
    """Also where it looks beyond the border, whose nearest pixels then stand for it."""
    layer = RelativeSelfAttention2d.from_conv2d(nn.Conv2d(2, 2, (1, 3), padding=(0, 1), padding_mode='replicate'))
    found = head_statistics(layer.attention_probabilities(torch.zeros(1, 2, 5, 6)), grid(5, 6), grid(5, 6))
    assert found.tap.tolist() == [[0, -1], [0, 0], [0, 1]]
    assert found.tap_weight == pytest.approx([1] * 3, abs=1e-6) and found.entropy.max() < 1e-5
    free = layer_statistics(AttentionLayer('', layer, torch.zeros(1, 2, 5, 6)))
    assert torch.equal(free.tap, found.tap) and free.spread.max() < 1e-2
    torch.testing.assert_close(free.centre, found.tap, atol=1e-5, rtol=0)


def test_a_head_that_follows_the_content_is_no_tap():
    torch.manual_seed(0)
    place, target = grid(6, 6), torch.randint(36, (36,))
    found = head_statistics(nn.functional.one_hot(target, 36).float()[None, None], place, place)
    assert found.tap_weight < 0.5 and found.entropy == 0


def test_some_queries_of_a_layer_with_content():
    torch.manual_seed(1)
    layer = RelativeSelfAttention2d(3, num_heads=2, content='both', stride=2, padding=1).eval()
    x = torch.randn(2, 3, 7, 6)
    whole, queries = layer.attention_probabilities(x), torch.tensor([0, 5, 11])
    torch.testing.assert_close(layer.attention_probabilities(x, queries), whole[:, :, queries])
    found = layer_statistics(AttentionLayer('', layer, x))
    rows = whole / whole.sum(-1, keepdim=True)
    wanted = head_statistics(rows, grid(7, 6).unflatten(0, (7, 6))[::2, ::2].flatten(0, 1), grid(7, 6))
    torch.testing.assert_close(found, wanted)


def test_model_without_such_layers():
    with pytest.raises(ValueError, match='Sequential has no RelativeSelfAttention2d'):
        seen_layers(nn.Sequential(nn.ReLU()), torch.zeros(1, 3, 4, 4))
