"""Relative position encodings (Cordonnier et al., https://arxiv.org/abs/1911.03584): logits of offsets for each head.

An encoding gives logits for any queries and keys, ``encoding(query_N2, key_M2) -> (G, N, M)``. A separable encoding is
a sum over the two axes, ``encoding(rows, rows, axis=0) + encoding(columns, columns, axis=1)``.

Shape suffixes: G heads, N queries, M keys, S entries of a table, D embedding size, 2 the coordinates (row, column).
"""

import torch
from torch import Tensor, nn

from ...ops.attention import look_up
from ..checks import check_choice, check_count, check_takes

COVARIANCES = {'isotropic': (1,), 'axis': (2,), 'full': (2, 2)}


class QuadraticEncoding(nn.Module):
    """``-1/2 |A_h (delta - centre_h)|^2``: head h attends to an area at the offset ``centre_h``, of width ``A_h^-1``.

    ``A^T A`` is the inverse covariance of the weights, in 1 / pixel^2: a number (``'isotropic'``), one for each axis
    (``'axis'``) or a matrix (``'full'``, not separable). The width alpha of the paper, ``-alpha |delta - centre|^2``,
    is ``A^2 / 2``. The difference is computed first and then squared: the expanded form of the paper loses digits at
    large offsets.

    Args:
        heads: G. Centres start at N(0, 2^2), A near 1, as published.
        covariance: ``'isotropic'``, ``'axis'`` or ``'full'``.
    """

    reach = 64  # largest offset for which a head is evaluated without a map; that covers 129 x 129 pixels

    def __init__(self, heads: int, covariance: str):
        super().__init__()
        check_choice('covariance', covariance, COVARIANCES)
        self.separable = covariance != 'full'
        self.centre = nn.Parameter(2 * torch.randn(heads, 2))
        start = torch.ones(heads, *COVARIANCES[covariance]) if self.separable else torch.eye(2).repeat(heads, 1, 1)
        self.root = nn.Parameter(start + 0.01 * torch.randn_like(start))

    @property
    def like(self) -> Tensor:
        """A tensor with the dtype and the device of the coordinates."""
        return self.centre

    def precision(self) -> Tensor:
        """Inverse covariance ``A^T A`` of each head, (G, 2, 2), in 1 / pixel^2."""
        if self.separable:
            return torch.diag_embed(self.root.square().expand(-1, 2))
        return self.root.mT @ self.root

    def forward(self, query: Tensor, key: Tensor, axis: int | None = None) -> Tensor:
        """Logits (G, N, M), or the part of a separable encoding that belongs to one axis.

        Args:
            query: coordinates of the queries, (N, 2), or (N,) along one axis.
            key: coordinates of the keys, (M, 2), or (M,) along one axis.
            axis: 0 for rows, 1 for columns, of a separable encoding; None for both.
        """
        if axis is not None:
            offset_GNM = key - query[:, None] - self.centre[:, axis, None, None]
            return -(self.root.expand(-1, 2)[:, axis, None, None] * offset_GNM).square() / 2
        if self.separable:
            return self.forward(query[:, 0], key[:, 0], 0) + self.forward(query[:, 1], key[:, 1], 1)
        offset_GNM2 = key - query[:, None] - self.centre[:, None, None]
        return -torch.einsum('gkl,gnml->gnmk', self.root, offset_GNM2).square().sum(-1) / 2


class Learned2dEncoding(nn.Module):
    """``u_h . r[d_row] + w_h . c[d_column]``: an embedding for every row and column offset, read by each head.

    It works for any feature size: offsets beyond the table use its last entry.

    Args:
        heads: G.
        size: offsets from ``-(size - 1)`` to ``size - 1`` have their own entry.
        channels: D of the embeddings; 400 as published.
    """

    separable = True

    def __init__(self, heads: int, size: int, channels: int):
        super().__init__()
        self.reach = size - 1
        self.embedding = nn.Parameter(torch.randn(2, 2 * size - 1, channels))
        self.reader = nn.Parameter(0.02 * torch.randn(2, heads, channels))

    @property
    def like(self) -> Tensor:
        """As for :class:`QuadraticEncoding`."""
        return self.embedding

    def forward(self, query: Tensor, key: Tensor, axis: int | None = None) -> Tensor:
        """As for :class:`QuadraticEncoding`."""
        if axis is None:
            return self.forward(query[:, 0], key[:, 0], 0) + self.forward(query[:, 1], key[:, 1], 1)
        table_GS = self.reader[axis] @ self.embedding[axis].mT
        return look_up(table_GS, key - query[:, None])


Encoding = QuadraticEncoding | Learned2dEncoding


def build_encoding(
    heads: int,
    encoding: str | None = None,
    covariance: str | None = None,
    position_size: int | None = None,
    position_channels: int | None = None,
) -> Encoding:
    """Builds the encoding of the given name, ``'quadratic'`` by default.

    Args:
        heads: G.
        encoding: ``'quadratic'`` or ``'learned_2d'``.
        covariance: of the quadratic one, ``'isotropic'`` by default.
        position_size: of the learned one, 16 by default.
        position_channels: of the learned one, 400 by default.

    Raises:
        ValueError: an argument breaks its rule, or has no effect.
    """
    encoding = 'quadratic' if encoding is None else encoding
    check_choice('encoding', encoding, ('quadratic', 'learned_2d'))
    setting = f'encoding={encoding!r}'
    if encoding == 'quadratic':
        check_takes('position_size', position_size, setting, "encoding='learned_2d'")
        check_takes('position_channels', position_channels, setting, "encoding='learned_2d'")
        return QuadraticEncoding(heads, 'isotropic' if covariance is None else covariance)
    check_takes('covariance', covariance, setting, "encoding='quadratic'")
    size = 16 if position_size is None else position_size
    channels = 400 if position_channels is None else position_channels
    check_count('position_size', size)
    check_count('position_channels', channels)
    return Learned2dEncoding(heads, size, channels)
