"""Triton kernels of the blocked positive attention for a GPU, with one tile of the N x M map in registers at a time.

With t_ij = q_i . k_j, the shift s_i and the normaliser z_i of ``blocked_positive.py`` (without logits), the gradient G
of out and b_i = G_i . out_i:

    e_ij = exp(min(t_ij, 0) - s_i),     w_ij = (1 + max(t_ij, 0)) e_ij,     out_i = sum_j w_ij v_j / z_i
    dv_j = sum_i (w_ij / z_i) G_i,      dt_ij = e_ij (G_i . v_j - b_i) / z_i
    dq_i = sum_j dt_ij k_j,             dk_j = sum_i dt_ij q_i

dq and dk are computed by one kernel, with queries and keys swapped. A program owns a block of rows and a part of the
width of its output and loops over all columns, computing the scores of each tile again. So no two programs write to the
same place, and the result is the same in each run. The forward pass keeps the largest score so far and rescales its
sums when that grows.

Sums are float32. Products of float32 are exact, not TF32. For bfloat16 inputs the weights are rounded to bfloat16
before they enter the tensor cores, as in torch's fused kernels, and z is the sum of the rounded weights, so that out
stays a mean of the values. For float16 inputs the weights enter in TF32, which has the precision of float16 and does
not overflow.

Shape suffixes: B batch, G heads, N queries, M keys, D query and key size, E value size.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

LOW = tl.constexpr(float('-inf'))
ALONG_COLUMNS = tl.constexpr(1)


@triton.jit
def _tile(matrix, first_row, rows, first_column, COLUMNS: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    """A tile of a contiguous (rows, COLUMNS) matrix, with zeros beyond its edges."""
    row = first_row + tl.arange(0, HEIGHT)
    column = first_column + tl.arange(0, WIDTH)
    inside = (row < rows)[:, None] & (column < COLUMNS)[None, :]
    return tl.load(matrix + row[:, None] * COLUMNS + column[None, :], mask=inside, other=0.0)


@triton.jit
def _store(
    matrix, tile, first_row, rows, first_column, COLUMNS: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr
):
    row = first_row + tl.arange(0, HEIGHT)
    column = first_column + tl.arange(0, WIDTH)
    inside = (row < rows)[:, None] & (column < COLUMNS)[None, :]
    tl.store(matrix + row[:, None] * COLUMNS + column[None, :], tile.to(matrix.dtype.element_ty), mask=inside)


@triton.jit
def _products(
    x,
    first_x,
    rows_x,
    y,
    first_y,
    rows_y,
    SIZE: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    PART: tl.constexpr,
):
    """``x_r . y_c`` of a tile of rows r and c, float32; products of two half precision numbers are exact in float32."""
    sums = tl.zeros((HEIGHT, WIDTH), tl.float32)
    for first in range(0, SIZE, PART):
        x_tile = _tile(x, first_x, rows_x, first, SIZE, HEIGHT, PART)
        y_tile = _tile(y, first_y, rows_y, first, SIZE, WIDTH, PART)
        sums = tl.dot(x_tile, tl.trans(y_tile), sums, input_precision='ieee')
    return sums


@triton.jit
def _low(t, first_column, columns, WIDTH: tl.constexpr):
    """``min(t, 0)``, -inf beyond the last column. NaN stays NaN, which ``minimum`` does not guarantee."""
    inside = first_column + tl.arange(0, WIDTH) < columns
    return tl.where(inside[None, :], tl.where(t > 0, 0.0, t), LOW)


@triton.jit
def _place(rows, HEIGHT: tl.constexpr):
    """(head, first row) of this program."""
    blocks = tl.cdiv(rows, HEIGHT)
    return (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks * HEIGHT


@triton.jit
def _of_queries(numbers, first, n, beyond, COUNT: tl.constexpr, ALONG: tl.constexpr):
    """One number per query of a tile, along its rows (0) or its columns (1)."""
    index = first + tl.arange(0, COUNT)
    return tl.expand_dims(tl.load(numbers + index, mask=index < n, other=beyond), 1 - ALONG)


@triton.jit(do_not_specialize=['n', 'm'])
def _out_kernel(
    q,
    k,
    v,
    out,
    z,
    s,
    n,
    m,
    D: tl.constexpr,
    E: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    PART: tl.constexpr,
    OWN: tl.constexpr,
    WEIGHT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    head, first_i = _place(n, HEIGHT)
    q, k, v, out = q + head * n * D, k + head * m * D, v + head * m * E, out + head * n * E
    first_e = tl.program_id(1) * OWN
    shift = tl.full((HEIGHT,), LOW, tl.float32)
    total = tl.zeros((HEIGHT,), tl.float32)
    sums = tl.zeros((HEIGHT, OWN), tl.float32)
    for first_j in range(0, m, WIDTH):
        t = _products(q, first_i, n, k, first_j, m, D, HEIGHT, WIDTH, PART)
        low = _low(t, first_j, m, WIDTH)
        larger = tl.maximum(shift, tl.max(low, 1))
        w = (tl.where(t > 0, 1 + t, 1.0) * tl.exp(low - larger[:, None])).to(WEIGHT)
        decay = tl.exp(shift - larger)
        total = total * decay + tl.sum(w.to(tl.float32), 1)
        v_tile = _tile(v, first_j, m, first_e, E, WIDTH, OWN).to(WEIGHT)
        sums = tl.dot(w, v_tile, sums * decay[:, None], input_precision=PRECISION)
        shift = larger
    _store(out, sums / total[:, None], first_i, n, first_e, E, HEIGHT, OWN)
    if first_e == 0:
        i = first_i + tl.arange(0, HEIGHT)
        tl.store(z + head * n + i, total, mask=i < n)
        tl.store(s + head * n + i, shift, mask=i < n)


@triton.jit(do_not_specialize=['n', 'm'])
def _values_kernel(
    grad,
    q,
    k,
    z,
    s,
    dv,
    n,
    m,
    D: tl.constexpr,
    E: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    PART: tl.constexpr,
    OWN: tl.constexpr,
    WEIGHT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """dv. A program owns a block of keys."""
    head, first_j = _place(m, HEIGHT)
    grad, q, k, dv = grad + head * n * E, q + head * n * D, k + head * m * D, dv + head * m * E
    z, s = z + head * n, s + head * n
    first_e = tl.program_id(1) * OWN
    sums = tl.zeros((HEIGHT, OWN), tl.float32)
    for first_i in range(0, n, WIDTH):
        t = _products(k, first_j, m, q, first_i, n, D, HEIGHT, WIDTH, PART)
        e = tl.exp(_low(t, first_i, n, WIDTH) - _of_queries(s, first_i, n, 0.0, WIDTH, ALONG_COLUMNS))
        p = tl.where(t > 0, 1 + t, 1.0) * e / _of_queries(z, first_i, n, 1.0, WIDTH, ALONG_COLUMNS)
        grad_tile = _tile(grad, first_i, n, first_e, E, WIDTH, OWN).to(WEIGHT)
        sums = tl.dot(p.to(WEIGHT), grad_tile, sums, input_precision=PRECISION)
    _store(dv, sums, first_j, m, first_e, E, HEIGHT, OWN)


@triton.jit(do_not_specialize=['rows', 'columns'])
def _features_kernel(
    x,
    y,
    a,
    c,
    z,
    s,
    b,
    dx,
    rows,
    columns,
    QUERIES: tl.constexpr,
    D: tl.constexpr,
    E: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    PART: tl.constexpr,
    OWN: tl.constexpr,
    WEIGHT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``dx_r = sum_c dt y_c``: dq for (x, y, a, c) = (q, k, G, v), dk for (k, q, v, G).

    QUERIES: 0 if the rows are the queries, 1 if the columns are.
    """
    head, first_r = _place(rows, HEIGHT)
    x, a, dx = x + head * rows * D, a + head * rows * E, dx + head * rows * D
    y, c = y + head * columns * D, c + head * columns * E
    n = columns if QUERIES else rows
    z, s, b = z + head * n, s + head * n, b + head * n
    first_d = tl.program_id(1) * OWN
    sums = tl.zeros((HEIGHT, OWN), tl.float32)
    for first_c in range(0, columns, WIDTH):
        first_i = first_c if QUERIES else first_r
        COUNT: tl.constexpr = WIDTH if QUERIES else HEIGHT
        t = _products(x, first_r, rows, y, first_c, columns, D, HEIGHT, WIDTH, PART)
        e = tl.exp(_low(t, first_c, columns, WIDTH) - _of_queries(s, first_i, n, 0.0, COUNT, QUERIES))
        d = _products(a, first_r, rows, c, first_c, columns, E, HEIGHT, WIDTH, PART)
        d = (d - _of_queries(b, first_i, n, 0.0, COUNT, QUERIES)) / _of_queries(z, first_i, n, 1.0, COUNT, QUERIES)
        y_tile = _tile(y, first_c, columns, first_d, D, WIDTH, OWN).to(WEIGHT)
        sums = tl.dot((e * d).to(WEIGHT), y_tile, sums, input_precision=PRECISION)
    _store(dx, sums, first_r, rows, first_d, D, HEIGHT, OWN)


# For every dtype of the inputs: the type of the weights in their matrix product, and the precision of that product if
# the type is float32.
WEIGHTS = {
    torch.float32: (tl.float32, 'ieee'),
    torch.float16: (tl.float32, 'tf32'),
    torch.bfloat16: (tl.bfloat16, 'ieee'),
}
COMPILER = dict(num_warps=8, num_stages=2, enable_fp_fusion=True)


def settings(dtype: torch.dtype, size: int, values: int, own: int) -> dict:
    """Constants of a kernel.

    Args:
        dtype: of the inputs.
        size: of queries and keys.
        values: size of the values.
        own: width of the output.
    """
    wide = dtype == torch.float32
    weight, precision = WEIGHTS[dtype]
    return dict(
        D=size,
        E=values,
        HEIGHT=64,
        WIDTH=32 if wide else 64,
        PART=_power(max(size, values), 32 if wide else 64),
        OWN=_power(own, 64 if wide else 128),
        WEIGHT=weight,
        PRECISION=precision,
        **COMPILER,
    )


def _power(size: int, most: int) -> int:
    """The next power of 2 from ``size``, but at least 16 (the smallest that ``tl.dot`` takes) and at most ``most``."""
    return min(max(triton.next_power_of_2(size), 16), most)


def forward(q_BGND: Tensor, k_BGMD: Tensor, v_BGME: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(out, z, s) in float32. Inputs are contiguous and of one dtype: float32, float16 or bfloat16."""
    heads, (n, size), (m, values) = q_BGND.shape[:2], q_BGND.shape[2:], v_BGME.shape[2:]
    out, z, s = (q_BGND.new_empty(*heads, n, last, dtype=torch.float32) for last in (values, 1, 1))
    _launch(
        _out_kernel,
        heads,
        n,
        values,
        settings(q_BGND.dtype, size, values, values),
        q_BGND,
        k_BGMD,
        v_BGME,
        out,
        z,
        s,
        n,
        m,
    )
    return out, z, s


def backward(
    grad_BGNE: Tensor, q_BGND: Tensor, k_BGMD: Tensor, v_BGME: Tensor, out_BGNE: Tensor, z: Tensor, s: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(dq, dk, dv), in the dtype of the inputs, from the results of :func:`forward`."""
    heads, (n, size), (m, values) = q_BGND.shape[:2], q_BGND.shape[2:], v_BGME.shape[2:]
    dq, dk, dv = (torch.empty_like(x) for x in (q_BGND, k_BGMD, v_BGME))
    b = (grad_BGNE * out_BGNE).sum(-1, dtype=torch.float32)
    grad = grad_BGNE.to(v_BGME.dtype)
    features, of_values = (settings(q_BGND.dtype, size, values, own) for own in (size, values))
    _launch(_features_kernel, heads, n, size, features, q_BGND, k_BGMD, grad, v_BGME, z, s, b, dq, n, m, 0)
    _launch(_features_kernel, heads, m, size, features, k_BGMD, q_BGND, v_BGME, grad, z, s, b, dk, m, n, 1)
    _launch(_values_kernel, heads, m, values, of_values, grad, q_BGND, k_BGMD, z, s, dv, n, m)
    return dq, dk, dv


def _launch(kernel: triton.JITFunction, heads: torch.Size, rows: int, own: int, constants: dict, *arguments) -> None:
    """Starts a program for every block of rows of every head and every part of the width of the output."""
    grid = (triton.cdiv(rows, constants['HEIGHT']) * heads.numel(), triton.cdiv(own, constants['OWN']))
    with torch.cuda.device_of(arguments[0]):
        kernel[grid](*arguments, **constants)
