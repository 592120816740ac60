"""The branch of a new block is as strong as its certificate allows, in all of its directions."""

import pytest
import torch

from mmseg_invattn.layers import CertifiedAttention2d, ConditionalAttention2d, CouplingAttention2d
from mmseg_invattn.layers.attention.modes import MODES

HEADS = [
    dict(),
    dict(reduction=1),
    dict(reduction=4),
    dict(num_heads=4),
    dict(num_heads=4, heads='shared'),
    dict(num_heads=2, heads='shared', reduction=1),
]


@pytest.mark.parametrize('heads', HEADS, ids=str)
def test_certified_product_has_equal_singular_values(heads):
    torch.manual_seed(0)
    block = CertifiedAttention2d(32, **heads)
    for product in block.out.weight @ block.value.weight:
        values = torch.linalg.svdvals(product)
        rank = block.value.weight.shape[1]
        torch.testing.assert_close(values[:rank], torch.ones(rank))
        assert (values[rank:] < 1e-6).all()
    if heads.get('heads') == 'shared':  # the heads write to channels of their own
        written = torch.cat(block.out.weight.unbind(), 1)
        torch.testing.assert_close(written.mT @ written, torch.eye(written.shape[1]))


# c = 0.9 over Lambda at the default s = 1.
GAINS = {
    'gaussian': 0.9 / (1 + 2**0.5),
    'embedded_gaussian': 0.9 / (1 + 2**0.5),
    'dot_product': 0.9 / (1 + 3**0.5),
    'concatenation': 0.9 / (0.25 + 1.75**0.5),  # where query and key have half of the sharpness each
    'l2': 0.9 / (1 + (1.25 + 64 / 27) ** 0.5),
}


def passed_on(block: torch.nn.Module, rectified: bool) -> float:
    """|g| over |x|, both of the means of images, less those of all images, which go into biases and centres."""
    x = torch.randn(16, 48, 1, 1) + torch.randn(16, 48, 16, 16)
    x = x.relu() if rectified else x
    with torch.no_grad():
        block.train()(x)
        kept = torch.cat(x.chunk(2, 1)[::-1], 1) if isinstance(block, ConditionalAttention2d) else x
        g, x = ((t - t.mean((0, 2, 3), keepdim=True)).mean((2, 3)) for t in (block(x) - kept, x))
    return float(g.norm() / x.norm())


@pytest.mark.parametrize('rectified', [False, True])
@pytest.mark.parametrize('mode', MODES)
def test_a_fresh_block_passes_on_what_an_image_shares(mode, rectified):
    """A fresh block averages over the image. Independent tokens have no mean, and of them it passes on nothing.

    Certified: half of the directions at the gain, but for what the ball takes away. Conditional: half of the channels
    at 0.9 times the typical over the largest singular value of a random matrix. Coupling: about as strong as
    the features.
    """
    torch.manual_seed(0)
    certified = passed_on(CertifiedAttention2d(48, mode=mode), rectified) / GAINS[mode]
    assert 0.85 * 0.5**0.5 < certified < 0.5**0.5 * 1.05
    assert 0.25 < passed_on(ConditionalAttention2d(48, mode=mode), rectified) < 0.45
    assert 0.8 < passed_on(CouplingAttention2d(48, mode=mode), rectified) < 2.5
