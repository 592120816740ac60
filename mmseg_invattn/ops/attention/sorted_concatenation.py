"""The operator of concatenation attention: forward and backward pass use the sums of ``sorted_sum.py``.

With G = dL/dout, ``a_i = G_i / z_i`` and ``b_i = -(G_i . out_i) / z_i`` (0 for ReLU), dL/df_ij = a_i . v_j + b_i, so

    dv_j = sum_i f(alpha_i + gamma_j) a_i,     dgamma_j = v_j . sum_i f' a_i + sum_i f' b_i
    dalpha_i = G_i . D_i,     D_i = d out_i / d alpha_i = (sum_j f' v_j - out_i sum_j f') / z_i

There is no term for the split point, because f is continuous. D is computed in the forward pass. The operator is opaque
to ``torch.compile``: its many small steps would take minutes to trace.

Shape suffixes: R rows (batch and heads), N queries, M keys, 1 the one number of a query or key in the score, E value
size, F = E + 1.
"""

import torch
from torch import Tensor

from ..second_derivative import once_differentiable
from .sorted_sum import count_below, sorted_sums

# For every f: the arguments `exponential` and `offset` of sorted_sum.py.
PIECES = {'elu1': (True, 0.0), 'elu': (True, -1.0), 'relu': (False, 0.0)}


def sorted_concatenation(alpha_RN1: Tensor, gamma_RM1: Tensor, v_RME: Tensor, kind: str) -> Tensor:
    """``sum_j f(alpha_i + gamma_j) v_j / z_i``, shape (R, N, E), in the dtype of v; differentiable once.

    Args:
        kind: f, ``'elu1'`` (ELU + 1), ``'elu'`` or ``'relu'``.
    """
    wants_slope = alpha_RN1.requires_grad and torch.is_grad_enabled()
    return once_differentiable(_forward(alpha_RN1, gamma_RM1, v_RME, kind, wants_slope)[0])


@torch.library.custom_op('mmseg_invattn::sorted_concatenation', mutates_args=())
def _forward(
    alpha_RN1: Tensor, gamma_RM1: Tensor, v_RME: Tensor, kind: str, wants_slope: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """out, and for the backward pass: z, D (empty if not wanted), the sorting orders of alpha and of gamma."""
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
    if exponential:
        z = values[:, size:].clone(memory_format=torch.contiguous_format)
    else:
        z = values.new_full((1, 1, 1), gamma_RM.shape[1])
    out_REN, d_RNE = values[:, :size].div_(z), v_RME.new_empty(0)
    if wants_slope:
        d_REN = slopes[:, :size]
        if exponential:
            d_REN.addcmul_(out_REN, slopes[:, size:], value=-1)
        d_RNE = _tokens_first(d_REN.div_(z), v_RME.dtype)
    return _tokens_first(out_REN, v_RME.dtype), z, d_RNE, by_alpha_RN, by_gamma_RM


@_forward.register_fake
def _(
    alpha_RN1: Tensor, gamma_RM1: Tensor, v_RME: Tensor, kind: str, wants_slope: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    (rows, queries, _), keys, size = alpha_RN1.shape, gamma_RM1.shape[1], v_RME.shape[2]
    z = v_RME.new_empty((rows, 1, queries) if PIECES[kind][0] else (1, 1, 1), dtype=torch.float64)
    d = v_RME.new_empty((rows, queries, size) if wants_slope else 0)
    of_alpha, of_gamma = (v_RME.new_empty((rows, count), dtype=torch.int64) for count in (queries, keys))
    return v_RME.new_empty((rows, queries, size)), z, d, of_alpha, of_gamma


@torch.library.custom_op('mmseg_invattn::sorted_concatenation_backward', mutates_args=())
def _backward(
    grad_RNE: Tensor,
    alpha_RN1: Tensor,
    gamma_RM1: Tensor,
    v_RME: Tensor,
    out_RNE: Tensor,
    z: Tensor,
    d_RNE: Tensor,
    by_alpha_RN: Tensor,
    by_gamma_RM: Tensor,
    kind: str,
    wants_alpha: bool,
    wants_gamma: bool,
    wants_v: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of alpha, gamma and v, empty if not wanted."""
    exponential, offset = PIECES[kind]
    d_alpha, d_gamma, d_v = (t.new_empty(0) for t in (alpha_RN1, gamma_RM1, v_RME))
    if wants_alpha:
        d_alpha = (grad_RNE.double() * d_RNE).sum(2, keepdim=True).to(alpha_RN1.dtype)
    if wants_gamma or wants_v:
        gamma_RM, size = gamma_RM1.squeeze(2).double(), v_RME.shape[2]
        alpha_RN = _clamped(alpha_RN1.squeeze(2).double(), gamma_RM.amax(1, keepdim=True), kind)
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
            d_gamma = d_gamma_RM[..., None].to(gamma_RM1.dtype, copy=True)
    return d_alpha, d_gamma, d_v


@_backward.register_fake
def _(
    grad_RNE: Tensor,
    alpha_RN1: Tensor,
    gamma_RM1: Tensor,
    v_RME: Tensor,
    out_RNE: Tensor,
    z: Tensor,
    d_RNE: Tensor,
    by_alpha_RN: Tensor,
    by_gamma_RM: Tensor,
    kind: str,
    wants_alpha: bool,
    wants_gamma: bool,
    wants_v: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    wanted = ((alpha_RN1, wants_alpha), (gamma_RM1, wants_gamma), (v_RME, wants_v))
    d_alpha, d_gamma, d_v = (t.new_empty(t.shape if wants else 0) for t, wants in wanted)
    return d_alpha, d_gamma, d_v


def _save(ctx, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.kind, _ = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, *output)


def _gradients(ctx, grad_RNE: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad_RNE is None:
        return (None,) * 5
    wanted = ctx.needs_input_grad[:3]
    gradients = _backward(grad_RNE, *ctx.saved_tensors, ctx.kind, *wanted)
    return *(g if wants else None for g, wants in zip(gradients, wanted, strict=True)), None, None


_forward.register_autograd(_gradients, setup_context=_save)


def _tokens_first(t_REN: Tensor, dtype: torch.dtype) -> Tensor:
    """A contiguous copy of shape (R, N, E)."""
    return t_REN.mT.to(dtype, copy=True, memory_format=torch.contiguous_format)


def _clamped(alpha_RN: Tensor, largest_R1: Tensor, kind: str) -> Tensor:
    """``max(alpha_i, -max gamma)`` for ELU + 1, so that z_i >= 1.

    If all scores of a query are below 0, its weights are ``softmax_j(gamma_j)`` and do not depend on alpha_i. So the
    output and its derivatives do not change, and the normaliser does not underflow.
    """
    return torch.maximum(alpha_RN, -largest_R1) if kind == 'elu1' else alpha_RN
