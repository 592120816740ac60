"""The shown weights are those that the blocks compute."""

import pytest
import torch
from helpers.view_cases import CASES, SIZE, make_block, true_weights, views_of
from mmcv.cnn import NonLocal2d
from mmseg.models.decode_heads.da_head import PAM

from mmseg_invattn.experiments.explore.attention_adapters import attention_blocks, channel_attention_blocks
from mmseg_invattn.experiments.explore.attention_packing import coarser, low_rank, pack
from mmseg_invattn.experiments.explore.attention_view import AttentionView, cells, paint, weights
from mmseg_invattn.layers import CertifiedAttention2d, InvChannelAttention

PIXELS = SIZE[0] * SIZE[1]


def all_weights(view):
    """(H, queries, pixels)."""
    return torch.stack([paint(view, weights(view, i)).flatten(1) for i in range(view.query_HND.shape[1])], 1)


@pytest.mark.parametrize('name', CASES)
def test_weights_are_those_of_the_kernels(name):
    block, x = make_block(CASES[name])
    views, truth = views_of(block, x), true_weights(block, x)
    assert len(views) == len(truth) == (2 if CASES[name]['form'] == 'coupling' else 1)
    for view, expected_HNN in zip(views, truth, strict=True):
        torch.testing.assert_close(all_weights(view), expected_HNN, rtol=1e-8, atol=1e-10)
        assert expected_HNN.std() > 1e-4  # uniform weights would make the test trivial


@pytest.mark.parametrize('sub_sample', [False, True])
@pytest.mark.parametrize('mode', ['gaussian', 'embedded_gaussian', 'dot_product', 'concatenation'])
def test_weights_are_those_of_mmcv(mode, sub_sample, monkeypatch):
    torch.manual_seed(0)
    block = NonLocal2d(8, mode=mode, sub_sample=sub_sample, zeros_init=False, std=0.5).double().eval()
    pairwise, caught = getattr(block, mode), []
    monkeypatch.setattr(block, mode, lambda *args: caught.append(pairwise(*args)) or caught[-1])
    x = torch.randn(1, 8, *SIZE, dtype=torch.float64)
    (view,) = views_of(block, x)
    shown_NM = torch.stack([weights(view, i)[0] for i in range(PIXELS)])
    torch.testing.assert_close(shown_NM, caught[0][0])


def test_weights_are_those_of_danet():
    torch.manual_seed(0)
    block = PAM(8, 4).double()
    torch.nn.init.ones_(block.gamma.scale)
    x = torch.randn(1, 8, *SIZE, dtype=torch.float64)
    (view,) = views_of(block, x)
    values_NC = block.value_project(x).flatten(2)[0].T
    torch.testing.assert_close((all_weights(view)[0] @ values_NC).T.reshape(x.shape) + x, block(x))


def test_a_subclass_with_other_scores_is_not_taken_for_its_parent():
    class Other(NonLocal2d):
        pass

    assert attention_blocks(Other(8)) == []


def test_channel_attention_is_named():
    model = torch.nn.Sequential(InvChannelAttention(8), CertifiedAttention2d(8))
    assert channel_attention_blocks(model) == ['0']
    assert [name for name, _ in attention_blocks(model)] == ['1']


@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize(
    'name',
    ['certified-gaussian', 'none-embedded_gaussian', 'coupling-l2', 'paper-dot_product', 'certified-dot_product'],
)
def test_packing_moves_scores_by_what_it_says(name, bits):
    block, x = make_block(CASES[name], spread=0.5, dtype=torch.float32)
    view = views_of(block, x)[0]
    packed = pack(view, bits)
    assert packed.view.query_HND.shape[-1] <= view.query_HND.shape[-1]
    assert bits == 8 or packed.error <= packed.limit
    if view.kernel in ('softmax', 'elu1'):
        # Scores off by e, up to a number of the query: weights are off by a factor of at most exp(2 e).
        ratio = torch.stack([(weights(packed.view, i) / weights(view, i)).log().abs().max() for i in range(PIXELS)])
        assert 0 < ratio.max() <= 2 * packed.error + 1e-5


def test_low_rank_keeps_the_scores():
    torch.manual_seed(0)
    query, key = torch.randn(2, 30, 3) @ torch.randn(2, 3, 64), torch.randn(2, 40, 64)
    small_query, small_key = low_rank(query, key, 1e-3)
    assert small_query.shape == (2, 30, 3) and small_key.shape == (2, 40, 3)
    torch.testing.assert_close(small_query @ small_key.mT, query @ key.mT, rtol=0, atol=1e-3)
    tolerance = 2 * float((query @ key.mT).abs().max())
    cut_query, cut_key = low_rank(query, key, tolerance)
    assert cut_query.shape[-1] < 3
    assert (cut_query @ cut_key.mT - query @ key.mT).abs().max() <= tolerance


def blockwise(view, factor=2):
    """The view with the queries and keys of the first pixel of each block in all of its pixels."""
    index = torch.arange(PIXELS).view(SIZE)
    first = index[::factor, ::factor].repeat_interleave(factor, 0).repeat_interleave(factor, 1)[: SIZE[0], : SIZE[1]]
    return AttentionView(
        view.title,
        view.size,
        view.query_HND[:, first.flatten()],
        view.key_HMD[:, first.flatten()],
        view.score,
        view.kernel,
        view.query_cells,
        view.key_cells,
    )


@pytest.mark.parametrize(
    'name',
    [
        'none-embedded_gaussian',
        'certified-dot_product',
        'certified-concatenation',
        'none-dot_product',
        'none-concatenation',
        'paper-dot_product',
    ],
)
def test_a_coarser_grid_is_exact_where_the_features_are(name):
    """Blocks of equal pixels may be put together: their weights add up."""
    block, x = make_block(CASES[name])
    view = blockwise(views_of(block, x)[0])
    small = coarser(view, 2)
    assert small.query_HND.shape[1] == 9
    query = 0
    for i, (top, _) in enumerate(small.query_cells.rows):
        for j, (left, _) in enumerate(small.query_cells.columns):
            query = i * len(small.query_cells.columns) + j
            torch.testing.assert_close(
                paint(small, weights(small, query)), paint(view, weights(view, top * SIZE[1] + left))
            )


def test_a_coarser_grid_leaves_pooled_keys_alone():
    block, x = make_block(CASES['certified-embedded_gaussian-pyramid'])
    view = views_of(block, x)[0]
    small = coarser(view, 4)
    assert torch.equal(small.key_HMD, view.key_HMD) and small.key_cells == view.key_cells
    assert small.query_HND.shape[1] == 4


def test_cells_of_a_pyramid_overlap_where_pooling_does():
    assert cells((5, 3), (2,))[0].rows == ((0, 3), (2, 5))
    assert cells((5, 3), 2)[0].rows == ((0, 2), (2, 4), (4, 5))
    assert cells((5, 3), 2)[0].areas().tolist() == [4, 2, 4, 2, 2, 1]
