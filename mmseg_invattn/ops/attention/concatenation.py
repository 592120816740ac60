"""Concatenation attention: ``w . [q_i ; k_j] = alpha_i + gamma_j``, a sum of a number of the query and one of the key.

    out_i = n_i / z_i,     n_i = sum_j f(alpha_i + gamma_j) v_j,     z_i = sum_j f(alpha_i + gamma_j), or M for ReLU

exactly, in O((N + M) log M) time and O(N + M) memory, by the sums of ``sorted_sum.py``. With G = dL/dout,
``a_i = G_i / z_i`` and ``b_i = -(G_i . out_i) / z_i`` (0 for ReLU), dL/df_ij = a_i . v_j + b_i, so

    dv_j = sum_i f(alpha_i + gamma_j) a_i,     dgamma_j = v_j . sum_i f' a_i + sum_i f' b_i
    dalpha_i = G_i . D_i,     D_i = d out_i / d alpha_i = (sum_j f' v_j - out_i sum_j f') / z_i

where f is continuous, so that no term of the split point appears. D comes with the forward pass.

Shape suffixes: B batch, G heads, N queries, M keys, 1 the score's one number, E value size, R = B G rows.
"""
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..second_derivative import second_derivative_wanted
from .positive import elu_attention, log_elu1, positive_attention, positive_attention_dense
from .sorted_sum import count_below, sorted_sums

PIECES = {'elu1': (True, 0.0), 'elu': (True, -1.0), 'relu': (False, 0.0)}  # f: exponential and offset of sorted_sum.py


def concatenation_log_weights(alpha_BGN1: Tensor, gamma_BGM1: Tensor) -> Tensor:
    """``log w_ij = log(ELU(alpha_i + gamma_j) + 1)``, shape (B, G, N, M)."""
    return log_elu1(alpha_BGN1 + gamma_BGM1.mT)


def concatenation_attention(alpha_BGN1: Tensor, gamma_BGM1: Tensor, v_BGME: Tensor,
                            logits_GNM: Tensor | None = None) -> Tensor:
    """``out_i = sum_j f(alpha_i + gamma_j) v_j / sum_j f(alpha_i + gamma_j)``, ``f = ELU + 1``.

    Position logits tie i and j together, which no sorting separates: with them, and inside
    :func:`~mmseg_invattn.ops.twice_differentiable`, the N x M map is built.
    """
    if logits_GNM is not None or second_derivative_wanted():
        return positive_attention(concatenation_log_weights(alpha_BGN1, gamma_BGM1), v_BGME, logits_GNM)
    return _attend(alpha_BGN1, gamma_BGM1, v_BGME, 'elu1')


def concatenation_attention_dense(alpha_BGN1: Tensor, gamma_BGM1: Tensor, v_BGME: Tensor,
                                  logits_GNM: Tensor | None = None) -> Tensor:
    """The same from its definition: the reference of the tests."""
    return positive_attention_dense(alpha_BGN1 + gamma_BGM1.mT, v_BGME, logits_GNM)


def mean_concatenation_attention(alpha_BGN1: Tensor, gamma_BGM1: Tensor, v_BGME: Tensor) -> Tensor:
    """``out_i = 1/M sum_j ReLU(alpha_i + gamma_j) v_j``, the non-local block's."""
    if second_derivative_wanted():
        return mean_concatenation_attention_dense(alpha_BGN1, gamma_BGM1, v_BGME)
    return _attend(alpha_BGN1, gamma_BGM1, v_BGME, 'relu')


def mean_concatenation_attention_dense(alpha_BGN1: Tensor, gamma_BGM1: Tensor, v_BGME: Tensor) -> Tensor:
    """The same with the N x M map: the reference of the tests, and what is differentiated twice."""
    return (alpha_BGN1 + gamma_BGM1.mT).relu() @ v_BGME / gamma_BGM1.shape[-2]


def elu_concatenation_attention(alpha_BGN1: Tensor, gamma_BGM1: Tensor, v_BGME: Tensor) -> Tensor:
    """``out_i = sum_j ELU(alpha_i + gamma_j) v_j / sum_j ELU(alpha_i + gamma_j)``, the paper's."""
    if second_derivative_wanted():
        return elu_concatenation_attention_dense(alpha_BGN1, gamma_BGM1, v_BGME)
    return _attend(alpha_BGN1, gamma_BGM1, v_BGME, 'elu')


def elu_concatenation_attention_dense(alpha_BGN1: Tensor, gamma_BGM1: Tensor, v_BGME: Tensor) -> Tensor:
    """The same with the N x M map: the reference of the tests, and what is differentiated twice."""
    return elu_attention(alpha_BGN1 + gamma_BGM1.mT, v_BGME)


def _attend(alpha_BGN1: Tensor, gamma_BGM1: Tensor, v_BGME: Tensor, kind: str) -> Tensor:
    rows = torch.broadcast_shapes(alpha_BGN1.shape[:2], gamma_BGM1.shape[:2], v_BGME.shape[:2])
    flat = (t.expand(*rows, -1, -1).flatten(0, 1) for t in (alpha_BGN1, gamma_BGM1, v_BGME))
    return _Concatenation.apply(*flat, kind).unflatten(0, rows)


class _Concatenation(torch.autograd.Function):
    """(alpha (R, N, 1), gamma (R, M, 1), v (R, M, E), kind) -> (R, N, E) in the dtype of v."""

    @staticmethod
    def forward(ctx, alpha_RN1: Tensor, gamma_RM1: Tensor, v_RME: Tensor, kind: str) -> Tensor:
        exponential, offset = PIECES[kind]
        alpha_RN, gamma_RM, size = alpha_RN1.squeeze(2).double(), gamma_RM1.squeeze(2).double(), v_RME.shape[2]
        sorted_RM, by_gamma_RM = gamma_RM.sort(1)
        by_alpha_RN = alpha_RN.argsort(1)
        alpha_RN = _clamped(alpha_RN, sorted_RM[:, -1:], kind)
        below_RN = count_below(sorted_RM, alpha_RN, by_alpha_RN)
        x_RFM = v_RME.gather(1, by_gamma_RM[..., None].expand_as(v_RME)).mT.double()
        if exponential:
            x_RFM = torch.cat([x_RFM, torch.ones_like(x_RFM[:, :1])], 1)
        values, slopes = sorted_sums(x_RFM, sorted_RM, alpha_RN, below_RN, exponential, offset)
        z = values[:, size:].clone() if exponential else values.new_full((1, 1, 1), gamma_RM.shape[1])
        out_REN = values[:, :size].div_(z)
        out_RNE, d_RNE = _tokens_first(out_REN, v_RME.dtype), None
        if ctx.needs_input_grad[0]:
            d_REN = slopes[:, :size]
            if exponential:
                d_REN.addcmul_(out_REN, slopes[:, size:], value=-1)
            d_RNE = _tokens_first(d_REN.div_(z), v_RME.dtype)
        ctx.save_for_backward(alpha_RN1, gamma_RM1, v_RME, out_RNE, z, d_RNE, by_alpha_RN, by_gamma_RM)
        ctx.kind = kind
        return out_RNE

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_RNE: Tensor) -> tuple[Tensor | None, ...]:
        alpha_RN1, gamma_RM1, v_RME, out_RNE, z, d_RNE, by_alpha_RN, by_gamma_RM = ctx.saved_tensors
        exponential, offset = PIECES[ctx.kind]
        wants_alpha, wants_gamma, wants_v, _ = ctx.needs_input_grad
        d_alpha = d_gamma = d_v = None
        if wants_alpha:
            d_alpha = (grad_RNE.double() * d_RNE).sum(2, keepdim=True).to(alpha_RN1.dtype)
        if wants_gamma or wants_v:
            gamma_RM, size = gamma_RM1.squeeze(2).double(), v_RME.shape[2]
            alpha_RN = _clamped(alpha_RN1.squeeze(2).double(), gamma_RM.amax(1, keepdim=True), ctx.kind)
            sorted_RN = alpha_RN.gather(1, by_alpha_RN)
            below_RM = count_below(sorted_RN, gamma_RM, by_gamma_RM)
            x_RFN = grad_RNE.mT / z
            if exponential:
                x_RFN = torch.cat([x_RFN, (x_RFN * out_RNE.mT).sum(1, keepdim=True).neg_()], 1)
            x_RFN = x_RFN.gather(2, by_alpha_RN[:, None].expand_as(x_RFN))
            values, slopes = sorted_sums(x_RFN, sorted_RN, gamma_RM, below_RM, exponential, offset, with_values=wants_v)
            if wants_v:
                d_v = _tokens_first(values[:, :size], v_RME.dtype)
            if wants_gamma:
                d_gamma_RM = (slopes[:, :size] * v_RME.mT).sum(1).add_(slopes[:, size:].sum(1))
                d_gamma = d_gamma_RM[..., None].to(gamma_RM1.dtype)
        return d_alpha, d_gamma, d_v, None


def _tokens_first(t_REN: Tensor, dtype: torch.dtype) -> Tensor:
    """(R, N, E), contiguous, sharing no memory with what it is a part of."""
    return t_REN.mT.to(dtype, copy=True, memory_format=torch.contiguous_format)


def _clamped(alpha_RN: Tensor, largest_R1: Tensor, kind: str) -> Tensor:
    """``max(alpha_i, -max gamma)`` for ELU + 1, with which z_i >= 1.

    Where all scores of a query are below 0 its weights are ``softmax_j(gamma_j)`` whatever alpha_i is: the output and
    its derivatives do not change, and the normaliser does not underflow.
    """
    return torch.maximum(alpha_RN, -largest_R1) if kind == 'elu1' else alpha_RN
