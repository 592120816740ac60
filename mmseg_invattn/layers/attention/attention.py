"""The attention of a block: a mode with its position logits, pooled keys and neighbourhood. Every form uses it.

Shape suffixes: B batch, G heads, N pixels, M keys, C channels of a token, E value size.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...ops import Roundoff, full_precision, spectral_norm_bound
from ...ops.attention import (
    criss_cross_weights,
    from_windows,
    mix_criss_cross,
    pixel_grid,
    pool_tokens,
    to_windows,
    window_mask,
)
from .options import AttentionOptions
from .position import POSITIONS

Mix = Callable[[Tensor], Tensor]  # values (B, G, N, E) -> sum_j P_ij v_j, (B, G, N, E)


class Attention(nn.Module):
    """``sum_j P_ij v_j`` over the pixels j that pixel i attends to.

    Calling the module returns the weights of the scores, like calling its mode. Then :meth:`logits` is called once for
    each size of feature maps, and :meth:`mixer` for every feature map.

    Args:
        options: of the block.
        channels: C of a token.
        inter_channels: size of queries and keys.
        heads: G.
        inert_bias: keep a key bias even if it has no effect on the softmax, as the ordinary blocks do.
    """

    def __init__(
        self, options: AttentionOptions, channels: int, inter_channels: int, heads: int, inert_bias: bool = False
    ):
        super().__init__()
        self.options = options
        mode = options.mode_class
        self.mode = mode(
            channels,
            inter_channels,
            heads,
            options.bias,
            key_bias=options.bias and (inert_bias or mode.key_bias_counts),
        )
        position = options.position
        self.position = None if position is None else POSITIONS[position](heads, options.position_size)

    def forward(self, scaled: bool = True) -> Any:
        return self.mode(scaled)

    def whole(self, n_pixels: int | None) -> int | None:
        """``n_pixels`` if every pixel attends to every pixel and beta is 0, else None; see ``lipschitz_factor``."""
        options = self.options
        plain = self.position is None and options.key_pooling is None and options.neighbourhood == 'full'
        return n_pixels if plain else None

    def logits(self, size: tuple[int, int], like: Tensor) -> Any:
        """beta for maps of size (H, W), in the dtype and on the device of ``like``; None if there is none.

        It is shifted so that the largest logit of a query is 0. This does not change the attention; added to logits in
        the thousands, the scores would be lost to rounding.
        """
        with full_precision(like.device):
            return getattr(self, f'_{self.options.neighbourhood}_logits')(size, like)

    def keys(self, size: tuple[int, int], beta: Any) -> tuple[int, Tensor]:
        """The number of keys of a query, and ``min_i sum_j exp(beta_ij)``, shape (1,) or (G,).

        If all scores are equal, no weight is larger than 1 divided by that sum.
        """
        options = self.options
        if options.neighbourhood == 'criss_cross':
            count = sum(size) - 1
            return count, torch.ones(1) if beta[0] is not None else torch.full((1,), float(count))
        if beta is not None:  # (G, N, M), or (K, G, P, P) of windows
            total = beta.exp().sum(-1).amin(-1)
            return beta.shape[-1], total.amin(0) if total.dim() == 2 else total
        count = len(pixel_grid(size, torch.zeros(()), options.key_pooling))
        return count, torch.full((1,), float(count))

    def largest_weight(self, scores: Any, radius_BG: Tensor, size: tuple[int, int], beta: Any) -> Tensor:
        """Bound of every ``P_ij`` for tokens in a ball, where scores lie within +-peak; shape (B, H), float64."""
        _, total = self.keys(size, beta)
        span = 2 * self.mode.bounds(scores, spectral_norm_bound, radius_BG).peak
        return (span.exp() / total.to(span)).clamp(max=1)

    def score_rounding(
        self,
        scores: Any,
        tokens_BGNC: Tensor,
        radius_BG: Tensor,
        reach_BG: Tensor,
        size: tuple[int, int],
        beta: Any,
        u: Roundoff,
    ) -> Tensor:
        """The mode's bound of the rounding errors of the scores, plus that of casting beta, (B, H, N).

        A key whose beta is far below 0 has little weight. So the cast of beta counts only with the logarithm of the
        number of keys, like the exponentials, and with the range of the scores.
        """
        moved = self.mode.rounding(scores, tokens_BGNC, reach_BG, u)
        if not u.casts or self.position is None:
            return moved
        peak = self.mode.bounds(scores, spectral_norm_bound, radius_BG).peak
        return moved + u.casts * (4 + math.log(self.keys(size, beta)[0]) + 2 * peak)[..., None]

    def mixer(
        self,
        scores: Any,
        tokens_BGNC: Tensor,
        size: tuple[int, int],
        beta: Any = None,
        kernel: Callable[..., Tensor] | None = None,
    ) -> Mix:
        """P as a linear map of the values. Queries and keys are projected once, here.

        Args:
            scores: weights of the mode, in the dtype of the tokens.
            tokens_BGNC: input of queries and keys, pixels row by row.
            size: (H, W).
            beta: from :meth:`logits`.
            kernel: a kernel of the mode; None is the row-stochastic one. Other kernels need ``neighbourhood='full'``.
        """
        build = getattr(self, f'_{self.options.neighbourhood}_mixer')
        return build(scores, tokens_BGNC, size, beta, kernel or self.mode.attend)

    def _full_logits(self, size: tuple[int, int], like: Tensor) -> Tensor | None:
        if self.position is None:
            return None
        return _from_peak(
            self.position(pixel_grid(size, like), pixel_grid(size, like, self.options.key_pooling)).to(like.dtype)
        )

    def _full_mixer(
        self,
        scores: Any,
        tokens_BGNC: Tensor,
        size: tuple[int, int],
        beta: Tensor | None,
        kernel: Callable[..., Tensor],
    ) -> Mix:
        pooling = self.options.key_pooling
        q, k = self.mode.project(scores, tokens_BGNC, pool_tokens(tokens_BGNC, size, pooling))
        mix = partial(kernel, q, k) if beta is None else partial(kernel, q, k, logits_GNM=beta)
        return mix if pooling is None else lambda values: mix(pool_tokens(values, size, pooling))

    def _criss_cross_logits(self, size: tuple[int, int], like: Tensor) -> tuple[Tensor | None, Tensor | None]:
        if self.position is None:
            return None, None
        grids = pixel_grid((1, size[1]), like), pixel_grid((size[0], 1), like)
        row, column = (self.position(grid, grid).to(like.dtype) for grid in grids)
        return row, column

    def _criss_cross_mixer(
        self,
        scores: Any,
        tokens_BGNC: Tensor,
        size: tuple[int, int],
        beta: tuple[Tensor | None, Tensor | None],
        kernel: Callable[..., Tensor],
    ) -> Mix:
        q, k = self.mode.project(scores, tokens_BGNC, tokens_BGNC)
        weights = criss_cross_weights(self.mode.log_weights, q, k.expand(-1, q.shape[1], -1, -1), size, *beta)
        return lambda values: mix_criss_cross(*weights, values)

    def _window_logits(self, size: tuple[int, int], like: Tensor) -> Tensor:
        """(K, G or 1, P, P) for the K windows of a map."""
        window, shift = self.options.windows
        beta = window_mask(size, window, shift, like)
        if self.position is None:
            return beta
        grid = pixel_grid((window, window), like)
        return _from_peak(beta + self.position(grid, grid).to(like.dtype))

    def _window_mixer(
        self, scores: Any, tokens_BGNC: Tensor, size: tuple[int, int], beta: Tensor, kernel: Callable[..., Tensor]
    ) -> Mix:
        window, shift = self.options.windows
        # Cut the tokens, not the projections: then padded queries are finite in every mode. They are removed again.
        cut = to_windows(tokens_BGNC, size, window, shift)
        q, k = self.mode.project(scores, cut, cut)
        beta = beta.repeat(tokens_BGNC.shape[0], 1, 1, 1)
        return lambda values: from_windows(
            kernel(q, k, to_windows(values, size, window, shift), logits_GNM=beta), size, window, shift
        )


def _from_peak(beta: Tensor) -> Tensor:
    """Logits minus the largest logit of each query."""
    return beta - beta.detach().amax(-1, keepdim=True)
