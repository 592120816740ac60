"""Attention kernels on projected features, compared with dense forms and with a lower limit; forward and backward.

Shape suffixes: B batch, G heads, N pixels, D query and key size, C value size.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_invattn.ops.attention import (
    concatenation_attention,
    dot_product_attention,
    dot_product_attention_dense,
    l2_attention,
    softmax_attention,
)

from .growth import grow
from .memory import GIB, Side, available
from .session import Session
from .timing import Step

PAPER_PIXELS, PAPER_CHANNELS, PAPER_REDUCTION = 9701, 12, 4
PAPER_NEED = 20 * GIB  # free memory that the dense form of that size needs
# Two matrix products with exponentials between them, by torch's own kernel. On a GPU, a kernel that scores every pair
# of pixels can come close to this time, but hardly below it.
FLOOR = "torch's fused attention of the same sizes"
KERNELS = {
    'softmax': softmax_attention,
    'l2': l2_attention,
    'dot_product': dot_product_attention,
    'dense dot_product': dot_product_attention_dense,
    FLOOR: F.scaled_dot_product_attention,
}


def features(*shape: int, dtype: str, device: str, scale: float = 1.0) -> Tensor:
    """Random numbers that require a gradient; the same at every call."""
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(shape, generator=generator) * scale
    return x.to(device, getattr(torch, dtype)).requires_grad_()


def backward_step(function, *inputs: Tensor) -> Step:
    """Forward and backward pass, with a gradient of ones for all outputs."""

    def step() -> None:
        for x in inputs:
            x.grad = None
        y = function(*inputs)
        y.backward(torch.ones_like(y))

    return step


def concatenation_inputs(n: int, dtype: str, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k of shape (1, 1, N, D), v (1, 1, N, C) and the weight (2D,) of the score."""
    inner = PAPER_CHANNELS // PAPER_REDUCTION
    q, k = (features(1, 1, n, inner, dtype=dtype, device=device) for _ in range(2))
    return (
        q,
        k,
        features(1, 1, n, PAPER_CHANNELS, dtype=dtype, device=device),
        features(2 * inner, dtype=dtype, device=device, scale=0.5),
    )


def concatenation(n: int, dtype: str, device: str) -> Step:
    """The kernel of this project, with the same q, k and weight as for the paper's."""

    def attend(q_BGND: Tensor, k_BGND: Tensor, v_BGNC: Tensor, w: Tensor) -> Tensor:
        of_query, of_key = w.chunk(2)
        return concatenation_attention(q_BGND @ of_query[:, None], k_BGND @ of_key[:, None], v_BGNC)

    return backward_step(attend, *concatenation_inputs(n, dtype, device))


def paper_concatenation(n: int, dtype: str, device: str) -> Step:
    """``e_ij = ELU(w . [q_i ; k_j]) / (1.5 sum_i ELU(w . [q_i ; k_j]))``, ``y_j = sum_i e_ij v_i``, as the paper does.

    q and k repeated to N x N, concatenated to (B, 2D, N, N), and a 1x1 convolution.
    """

    def attend(q_BGND: Tensor, k_BGND: Tensor, v_BGNC: Tensor, w: Tensor) -> Tensor:
        q_BDN1, k_BD1N = q_BGND[:, 0].mT[..., None], k_BGND[:, 0].mT[:, :, None]
        pairs = torch.cat([q_BDN1.repeat(1, 1, 1, n), k_BD1N.repeat(1, 1, n, 1)], 1)
        f_BNN = F.elu(F.conv2d(pairs, w[None, :, None, None]))[:, 0]
        e_BNN = f_BNN / (f_BNN.sum(1, keepdim=True) * 1.5)
        return torch.bmm(v_BGNC[:, 0].mT, e_BNN)

    return backward_step(attend, *concatenation_inputs(n, dtype, device))


def attend(kernel: str, n: int, channels: int, dtype: str, device: str) -> Step:
    """A kernel of :data:`KERNELS` on one head of half the channels, as blocks project them."""
    q, k, v = (
        features(1, 1, n, channels // 2, dtype=dtype, device=device, scale=(channels // 2) ** -0.25) for _ in range(3)
    )
    return backward_step(KERNELS[kernel], q, k, v)


def paper_pixels(device: str) -> int:
    """The paper's number of pixels, or the largest whose dense form fits into memory, which is quadratic in it."""
    return min(PAPER_PIXELS, int(PAPER_PIXELS * math.sqrt(available(device) / PAPER_NEED)))


def run(session: Session) -> None:
    for dtype in session.dtypes:
        options, tiny = dict(dtype=dtype, device=session.device), dict(n=16)
        if dtype == 'float32':
            n = 512 if session.quick else paper_pixels(session.device)
            session.compare_once(
                'concatenation',
                "the paper's dense evaluation, run once",
                dict(C=PAPER_CHANNELS, N=n, dtype=dtype),
                Side(concatenation, options | dict(n=n), tiny),
                Side(paper_concatenation, options | dict(n=n), tiny),
                time_limit=1 / 300,
                memory_limit=1 / 50,
            )
        steps = [64, 256, 1024] if session.quick else [4096, 16384, 65536]
        grow(
            session,
            'concatenation',
            Side(concatenation, options, tiny),
            'n',
            steps,
            steps,
            sizes=dict(C=PAPER_CHANNELS, dtype=dtype),
            time_limit=6,
            memory_limit=4.5,
            rounds=5,
        )
        channels, n = (16, 256) if session.quick else (256, 8192)
        side, sizes = Side(attend, options | dict(n=n, channels=channels), tiny), dict(C=channels, N=n, dtype=dtype)
        for kernel in ('softmax', 'l2', 'dot_product'):
            ours = side.with_options(kernel=kernel)
            session.compare(kernel, FLOOR, sizes, ours, side.with_options(kernel=FLOOR))
        dense = side.with_options(kernel='dense dot_product')
        session.compare('dot_product', 'its dense form', sizes, ours, dense, time_limit=1, memory_limit=1 / 8)
