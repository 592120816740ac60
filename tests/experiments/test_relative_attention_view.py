"""Relative self-attention on the explorer page: the shown weights are those of the layers."""

import pytest
import torch

from mmseg_invattn.experiments.explore.attention_adapters import attention_views
from mmseg_invattn.experiments.explore.attention_packing import pack
from mmseg_invattn.experiments.explore.attention_view import paint, weights
from mmseg_invattn.layers import InvRelativeAttention2d, RelativeSelfAttention2d

KINDS = {
    'quadratic': dict(),
    'axis': dict(covariance='axis'),
    'full': dict(covariance='full'),
    'learned': dict(encoding='learned_2d', position_size=3),
    'content': dict(content='only'),
    'full+content': dict(covariance='full', content='both'),
    'learned+content': dict(encoding='learned_2d', content='both'),
}
MORE = {'plain': dict(), 'windows': dict(window=3, window_shift=1), 'strided': dict(stride=2)}


@pytest.mark.parametrize('more', MORE)
@pytest.mark.parametrize('kind', KINDS)
def test_weights_are_those_of_the_layer(kind, more):
    torch.manual_seed(0)
    layer, x = (
        RelativeSelfAttention2d(4, num_heads=3, **KINDS[kind], **MORE[more]).double().eval(),
        torch.randn(1, 4, 6, 7, dtype=torch.float64),
    )
    ((_, view),) = attention_views(layer, lambda: layer(x))
    wanted_HNM = layer.attention_probabilities(x)[0]
    shown = torch.stack([paint(view, weights(view, i)).flatten(1) for i in range(wanted_HNM.shape[1])], 1)
    torch.testing.assert_close(shown, wanted_HNM, rtol=1e-8, atol=1e-10)
    packed = pack(view)
    rounded = torch.stack([weights(packed.view, i) for i in range(wanted_HNM.shape[1])], 1)
    assert (rounded - wanted_HNM).abs().max() < 2 * packed.limit
    assert packed.to_json()['heads'] == 3


def test_weights_are_those_of_the_invertible_block():
    torch.manual_seed(1)
    block, x = InvRelativeAttention2d(4, 3).double(), torch.randn(1, 4, 5, 4, dtype=torch.float64)
    ((_, view),) = attention_views(block, lambda: block(x))
    shown = torch.stack([weights(view, i) for i in range(20)], 1)
    torch.testing.assert_close(shown, block.mixing.probabilities((5, 4)))


def test_padding_cannot_be_shown():
    layer = RelativeSelfAttention2d(4, padding=1)
    with pytest.raises(ValueError, match=r'padding=\(1, 1\): a part of the weights'):
        attention_views(layer, lambda: layer(torch.zeros(1, 4, 5, 5)))
