"""Relative self-attention on the explorer page: one adapter for every encoding, with and without content.

The page has no formula for some encodings, which are written as an inner product and a bias. With S the inverse
covariance, mu the centre, and positions q and k of query and key, up to a number that depends only on the query,

    -1/2 (k - q - mu)^T S (k - q - mu)  =  (S q) . k - 1/2 k^T S k + (S mu) . k

Shape suffixes: G heads, N queries, M keys, D query and key size; the last 2 is (row, column).
"""

import torch
from torch import Tensor

from ...layers import InvRelativeAttention2d, RelativeSelfAttention2d
from ...layers.attention.position import LearnedPosition, QuadraticPosition
from ...layers.convolution.encoding import Learned2dEncoding, QuadraticEncoding
from ...ops.attention import pixel_grid
from .attention_view import AttentionView, Cells, cells


def relative_attention_view(module: RelativeSelfAttention2d | InvRelativeAttention2d, x: Tensor) -> AttentionView:
    """The attention of the heads of a layer in an image, (1, C, H, W).

    Raises:
        ValueError: the layer has zero padding, so that a part of its weights lies outside the picture.
    """
    mixing, content = module.mixing, getattr(module, 'content', 'none')
    padding = mixing.padding if mixing is not None else module.padding
    if any(padding):
        raise ValueError(
            f'padding={padding}: a part of the weights lies in the padding, outside the picture, so '
            'this layer cannot be shown; only layers with padding=0 can'
        )
    size, stride = tuple(x.shape[2:]), getattr(module, 'stride', 1)
    query_cells = Cells(*(tuple((i, i + 1) for i in range(0, n, stride)) for n in size))
    key_M2 = pixel_grid(size, x)
    query_N2 = key_M2.unflatten(0, size)[::stride, ::stride].flatten(0, 1)
    heads = len(module.weight) if isinstance(module, InvRelativeAttention2d) else module.num_heads
    query_HND, key_HMD = x.new_zeros(heads, len(query_N2), 1), x.new_zeros(heads, len(key_M2), 1)
    if content != 'none':
        q_BGMD, k_BGMD = module.queries_and_keys(x)
        query_HND = q_BGMD[0].unflatten(1, size)[:, ::stride, ::stride].flatten(1, 2)
        key_HMD = k_BGMD[0]
    position = bias_HM = None
    title = 'relative self-attention'
    if mixing is None:
        title += ', content only'
    elif isinstance(mixing.encoding, Learned2dEncoding):
        position = _table(mixing.encoding)
        title += ', learned rows and columns'
    elif mixing.encoding.root.shape[1:] == (1,):
        position = _spot(mixing.encoding)
        title += ', quadratic'
    else:
        places_q, places_k, bias_HM = _products(mixing.encoding, query_N2, key_M2)
        query_HND, key_HMD = torch.cat([query_HND, places_q], -1), torch.cat([key_HMD, places_k], -1)
        title += ', quadratic of any shape'
    title += ', and content' * (content == 'both')
    window = getattr(module, 'window', None)
    return AttentionView(
        title,
        size,
        query_HND,
        key_HMD,
        'product',
        'softmax',
        query_cells,
        cells(size),
        key_bias_HM=bias_HM,
        position=position,
        neighbourhood='full' if window is None else 'window',
        window=(window or 1, getattr(module, 'window_shift', 0)),
    )


def _table(encoding: Learned2dEncoding) -> LearnedPosition:
    """The same logits as a table with a number for every offset."""
    position = LearnedPosition(encoding.reader.shape[1], encoding.reach + 1).to(encoding.reader)
    row_GS, column_GS = encoding.reader @ encoding.embedding.mT
    position.row.copy_(row_GS)
    position.column.copy_(column_GS)
    return position


def _spot(encoding: QuadraticEncoding) -> QuadraticPosition:
    """The same logits with the width alpha of the paper."""
    position = QuadraticPosition(len(encoding.centre)).to(encoding.centre)
    position.centre.copy_(encoding.centre)
    position.log_alpha.copy_((encoding.root[:, 0].square() / 2).clamp(min=1e-12).log())
    return position


def _products(encoding: QuadraticEncoding, query_N2: Tensor, key_M2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(queries, keys, bias of the keys); positions count from the middle of the map, which reduces rounding."""
    precision_G22, middle = encoding.precision(), key_M2.mean(0)
    key_GM2 = (key_M2 - middle).expand(len(precision_G22), -1, -1)
    bias_GM = ((encoding.centre[:, None] - key_GM2 / 2) @ precision_G22 * key_GM2).sum(-1)
    return (query_N2 - middle) @ precision_G22, key_GM2, bias_GM
