"""Every attention kernel with its dense reference, and inputs for them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_invattn.ops import attention as ops

# kernel, its definition, log-weights, size of queries and keys; all of these take position logits
ROW_STOCHASTIC = {
    'softmax': (ops.softmax_attention, ops.softmax_attention_dense, ops.softmax_log_weights, 5),
    'l2': (ops.l2_attention, ops.l2_attention_dense, ops.l2_log_weights, 5),
    'dot_product': (ops.dot_product_attention, ops.dot_product_attention_dense, ops.dot_product_log_weights, 5),
    'concatenation': (ops.concatenation_attention, ops.concatenation_attention_dense, ops.concatenation_log_weights, 1),
}


def mean_dot_product_dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return q @ k.mT / k.shape[-2] @ v


def elu_dot_product_dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    w = F.elu(q @ k.mT)
    return w / w.sum(-1, keepdim=True) @ v


# kernel, its definition, size of queries and keys
KERNELS = {name: (kernel, dense, size) for name, (kernel, dense, _, size) in ROW_STOCHASTIC.items()} | {
    'mean_dot_product': (ops.mean_dot_product_attention, mean_dot_product_dense, 5),
    'elu_dot_product': (ops.elu_dot_product_attention, elu_dot_product_dense, 5),
    'mean_concatenation': (ops.mean_concatenation_attention, ops.mean_concatenation_attention_dense, 1),
    'elu_concatenation': (ops.elu_concatenation_attention, ops.elu_concatenation_attention_dense, 1),
}


def features(
    n: int, m: int, size: int, scale: float = 1.0, dtype: torch.dtype = torch.float64, device: str = 'cpu'
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of 2 samples and 3 heads, that take a gradient; the same numbers on every device."""
    q, k = (torch.randn(2, 3, count, size, dtype=dtype) * scale for count in (n, m))
    v = torch.randn(2, 3, m, 4, dtype=dtype)
    return tuple(x.to(device).requires_grad_() for x in (q, k, v))
