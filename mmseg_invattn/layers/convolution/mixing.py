"""Position-only attention: the linear map ``x -> P_h x`` of every head, by the cheapest exact evaluation.

For a separable encoding P is the product of a row softmax and a column softmax, also with windows (a window is the
product of a row mask and a column mask). Other encodings need the N x N map, one for the whole batch, or with windows a
map of the window's size.

Zero padding adds keys around the map whose values are 0, so that the rows of P over the pixels of the map sum to less
than 1 near the border. Without padding this weight goes to pixels inside the map.

Shape suffixes: B batch, G heads, C channels, H and W rows and columns, I and J rows and columns of the outputs,
N = I J, M = H W, K windows, P pixels of a window, 2 the coordinates (row, column).
"""

import torch
from torch import Tensor, nn

from ...ops import at_least_float32
from ...ops.attention import from_windows, pixel_grid, separable_attention, to_windows, window_mask, window_padding
from .encoding import Encoding


class PositionMixing(nn.Module):
    """P of an encoding. Weights have the dtype of the encoding, at least float32.

    Args:
        encoding: see :mod:`.encoding`.
        padding: rows and columns of zeros on either side that are attended to as well.
        stride: the output has every stride-th row and column.
        window: attend within windows with sides of this many pixels; None: everywhere.
        window_shift: pixels by which the windows are shifted.
    """

    def __init__(
        self,
        encoding: Encoding,
        padding: tuple[int, int] = (0, 0),
        stride: int = 1,
        window: int | None = None,
        window_shift: int = 0,
    ):
        super().__init__()
        self.encoding = encoding
        self.padding, self.stride, self.window, self.window_shift = padding, stride, window, window_shift

    def weights(self, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """Weights of :meth:`forward` for maps of (H, W): ``(row_GIH, column_GJW)``, ``(P_GNM, )`` or ``(P_KGPP, )``."""
        if self.encoding.separable:
            return self._axis_weights(0, size[0]), self._axis_weights(1, size[1])
        return (self.probabilities(size) if self.window is None else self._window_weights(size, self.window),)

    def forward(self, x_BGCHW: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
        """``P_h x``, shape (B, G, C, I, J); if x has one group, all heads use it."""
        size = (x_BGCHW.shape[3], x_BGCHW.shape[4])
        weights = tuple(weight.to(x_BGCHW.dtype) for weight in weights)
        if self.encoding.separable:
            row_GIH, column_GJW = weights
            return separable_attention(row_GIH, column_GJW, x_BGCHW)
        if self.window is None:
            out = mix_dense(weights[0], x_BGCHW.flatten(3))
        else:
            cut_BKGPC = to_windows(x_BGCHW.flatten(3).mT, size, self.window, self.window_shift).unflatten(
                0, (len(x_BGCHW), -1)
            )
            values, cut = ('bkqc', cut_BKGPC[:, :, 0]) if cut_BKGPC.shape[2] == 1 else ('bkgqc', cut_BKGPC)
            one = len(weights[0]) == 1  # no window is cut by the border
            mixed_BKGPC = torch.einsum(
                f'{"gpq" if one else "kgpq"},{values}->bkgpc', weights[0][0] if one else weights[0], cut
            )
            out = from_windows(mixed_BKGPC.flatten(0, 1), size, self.window, self.window_shift).mT
            out = out.unflatten(3, size)[..., :: self.stride, :: self.stride].flatten(3)
        return out.unflatten(3, (-1, -(-size[1] // self.stride)))

    def probabilities(self, size: tuple[int, int], queries: Tensor | None = None) -> Tensor:
        """P from its definition, (G, N, M); only for the output pixels ``queries``, numbered row by row, if given."""
        query_N2, key_M2 = self._grid(size)
        query_N2 = query_N2 if queries is None else query_N2[queries]
        logits_GNM = self.encoding(query_N2, key_M2)
        if self.window is not None:
            logits_GNM = logits_GNM.masked_fill(self._apart(query_N2, key_M2, self.window).any(-1), -torch.inf)
        inside = ((key_M2 >= 0) & (key_M2 < key_M2.new_tensor(size))).all(-1)
        return logits_GNM.softmax(-1)[..., inside]

    def _grid(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Coordinates of the queries and of the keys, padding included."""
        like = at_least_float32(self.encoding.like)
        (up, left), (height, width) = self.padding, size
        query_HW2 = pixel_grid(size, like).unflatten(0, size)[:: self.stride, :: self.stride]
        key_M2 = pixel_grid((height + 2 * up, width + 2 * left), like) - like.new_tensor(self.padding)
        return query_HW2.flatten(0, 1), key_M2

    def _apart(self, query: Tensor, key: Tensor, window: int) -> Tensor:
        """Whether the windows of query and key differ."""
        of_query, of_key = ((place - self.window_shift).div(window, rounding_mode='floor') for place in (query, key))
        return of_query[:, None] != of_key

    def _axis_weights(self, axis: int, length: int) -> Tensor:
        like, pad = at_least_float32(self.encoding.like), self.padding[axis]
        key = torch.arange(-pad, length + pad, dtype=like.dtype, device=like.device)
        query = key[pad : pad + length : self.stride]
        logits = self.encoding(query, key, axis)
        if self.window is not None:
            logits = logits.masked_fill(self._apart(query, key, self.window), -torch.inf)
        return logits.softmax(-1)[..., pad : pad + length]

    def _window_weights(self, size: tuple[int, int], window: int) -> Tensor:
        """(K, G, P, P). Padding that completes windows at the border gets no attention; without padding K is 1."""
        like = at_least_float32(self.encoding.like)
        grid_P2 = pixel_grid((window, window), like)
        logits_KGPP = self.encoding(grid_P2, grid_P2)[None]
        if any(window_padding(size, window, self.window_shift)):
            logits_KGPP = logits_KGPP + window_mask(size, window, self.window_shift, like)
        return logits_KGPP.softmax(-1)


def mix_dense(p_GNM: Tensor, v_BGCM: Tensor) -> Tensor:
    """``P_h v``, shape (B, G, C, N); if v has one group, all heads use it. Nothing is copied for broadcasting."""
    if v_BGCM.shape[1] == 1:
        return torch.einsum('gnm,bcm->bgcn', p_GNM, v_BGCM[:, 0])
    return torch.einsum('gnm,bgcm->bgcn', p_GNM, v_BGCM)
