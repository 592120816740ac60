"""Attention kernels, one file each, and for each of them a dense reference of a few lines.

A kernel takes the features of queries and keys (already scaled, so that scores need no further factor), the values, and
position logits beta of shape (G, N, M) or None. The functions named ``*_log_weights`` return ``log w_ij`` of the
row-stochastic weights ``P_ij = w_ij e^beta_ij / sum_j w_ij e^beta_ij``, for attention over a part of the pixels.
"""

from .concatenation import (
    concatenation_attention,
    concatenation_attention_dense,
    concatenation_log_weights,
    elu_concatenation_attention,
    elu_concatenation_attention_dense,
    mean_concatenation_attention,
    mean_concatenation_attention_dense,
)
from .dot_product import (
    dot_product_attention,
    dot_product_attention_dense,
    dot_product_log_weights,
    elu_dot_product_attention,
    mean_dot_product_attention,
)
from .l2 import l2_attention, l2_attention_dense, l2_log_weights
from .neighbourhood import (
    criss_cross_weights,
    from_windows,
    mix_criss_cross,
    neighbourhood_mask,
    to_windows,
    window_mask,
    window_padding,
)
from .pooling import pool_tokens
from .position import look_up, pixel_grid
from .positive import elu1, log_elu1
from .separable import separable_attention, separable_weights_dense
from .softmax import softmax_attention, softmax_attention_dense, softmax_log_weights

__all__ = [
    'concatenation_attention',
    'concatenation_attention_dense',
    'concatenation_log_weights',
    'criss_cross_weights',
    'dot_product_attention',
    'dot_product_attention_dense',
    'dot_product_log_weights',
    'elu1',
    'elu_concatenation_attention',
    'elu_concatenation_attention_dense',
    'elu_dot_product_attention',
    'from_windows',
    'l2_attention',
    'l2_attention_dense',
    'l2_log_weights',
    'log_elu1',
    'look_up',
    'mean_concatenation_attention',
    'mean_concatenation_attention_dense',
    'mean_dot_product_attention',
    'mix_criss_cross',
    'neighbourhood_mask',
    'pixel_grid',
    'pool_tokens',
    'separable_attention',
    'separable_weights_dense',
    'softmax_attention',
    'softmax_attention_dense',
    'softmax_log_weights',
    'to_windows',
    'window_mask',
    'window_padding',
]
