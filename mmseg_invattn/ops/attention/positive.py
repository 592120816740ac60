"""Attention whose weights are a positive function of the score, ``P_ij = f(t_ij) e^beta_ij / sum_j f(t_ij) e^beta_ij``.

    f(t) = ELU(t) + 1 = 1 + t  for t > 0,   e^t  otherwise;        0 < f' / f <= 1

so the certificate holds with the constant ``1 + R (G_1 + G_2)``; G_1 and G_2 are the slopes of t in the query and in
the key.
"""

import torch
from torch import Tensor


def elu1(t: Tensor) -> Tensor:
    """``ELU(t) + 1``."""
    return torch.where(t > 0, 1 + t, t.clamp(max=0).exp())


def log_elu1(t: Tensor) -> Tensor:
    """``log(ELU(t) + 1)``: equal to t below 0, so very negative scores neither underflow nor give 0 / 0."""
    return torch.where(t > 0, t.clamp(min=0).log1p(), t)


def positive_attention(log_w_BGNM: Tensor, v_BGME: Tensor, logits_GNM: Tensor | None = None) -> Tensor:
    """``sum_j P_ij v_j`` from log-weights, with the N x M map."""
    if logits_GNM is not None:
        log_w_BGNM = log_w_BGNM + logits_GNM.to(log_w_BGNM.dtype)
    return log_w_BGNM.softmax(-1) @ v_BGME


def positive_attention_dense(t_BGNM: Tensor, v_BGME: Tensor, logits_GNM: Tensor | None = None) -> Tensor:
    """The same from its definition ``f / sum f``: the reference for the tests."""
    w = elu1(t_BGNM) * (1 if logits_GNM is None else logits_GNM.exp())
    return (w / w.sum(-1, keepdim=True)) @ v_BGME


def elu_attention(t_BGNM: Tensor, v_BGME: Tensor) -> Tensor:
    """``sum_j ELU(t_ij) v_j / sum_j ELU(t_ij)`` as the paper's authors compute it.

    The normaliser can be 0 or negative. The function is kept for parity with the paper and never certified.
    """
    w = torch.nn.functional.elu(t_BGNM)
    return (w / w.sum(-1, keepdim=True)) @ v_BGME
