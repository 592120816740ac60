"""Attention of a block: a mode with its position logits, pooled keys and neighbourhood. Every form builds on it.

Shape suffixes: B batch, G heads, N pixels, C channels of a token, E value size.
"""
from collections.abc import Callable

from torch import Tensor, nn

from ..ops.attention import criss_cross_weights, from_windows, mix_criss_cross, pool_tokens, to_windows
from .position import POSITIONS, pixel_grid
from .spec import AttentionSpec

Mix = Callable[[Tensor], Tensor]  # values (B, G, N, E) -> sum_j P_ij v_j, (B, G, N, E)


class Attention(nn.Module):
    """``sum_j P_ij v_j`` over the pixels j that pixel i attends to.

    Args:
        spec: the block.
        channels: C of a token.
        inter_channels: size of queries and keys.
        heads: G.
        bias: biases of the projections.
        inert_bias: keep a key bias also where the softmax does not see it, as the ordinary blocks do.
    """

    def __init__(self, spec: AttentionSpec, channels: int, inter_channels: int, heads: int, bias: bool,
                 inert_bias: bool = False):
        super().__init__()
        mode = spec.mode_class
        self.spec = spec
        self.mode = mode(channels, inter_channels, heads, bias, key_bias=bias and (inert_bias or mode.key_bias_counts))
        self.position = None if spec.position is None else POSITIONS[spec.position](heads, spec.position_size)

    def whole(self, n_pixels: int | None) -> int | None:
        """``n_pixels`` where every pixel attends to every pixel and beta is 0, else None; see ``lipschitz_factor``."""
        plain = self.position is None and self.spec.key_pooling is None and self.spec.neighbourhood == 'full'
        return n_pixels if plain else None

    def mixer(self, scores: tuple, tokens_BGNC: Tensor, size: tuple[int, int],
              kernel: Callable[..., Tensor] | None = None) -> Mix:
        """P as a linear map of the values. Queries and keys are projected once, here.

        Args:
            scores: weights of the mode.
            tokens_BGNC: what queries and keys read, pixels row by row.
            size: (H, W).
            kernel: of the mode; its row-stochastic one where None, the only one of a neighbourhood but the full.
        """
        build = getattr(self, f'_{self.spec.neighbourhood}')
        return build(scores, tokens_BGNC, size, kernel or self.mode.attend)

    def _full(self, scores: tuple, tokens_BGNC: Tensor, size: tuple[int, int], kernel: Callable[..., Tensor]) -> Mix:
        pooling = self.spec.key_pooling
        q, k = self.mode.project(scores, tokens_BGNC, pool_tokens(tokens_BGNC, size, pooling))
        beta = ()
        if self.position is not None:
            beta = (self.position(pixel_grid(size, tokens_BGNC), pixel_grid(size, tokens_BGNC, pooling)), )
        return lambda values: kernel(q, k, pool_tokens(values, size, pooling), *beta)

    def _criss_cross(self, scores: tuple, tokens_BGNC: Tensor, size: tuple[int, int],
                     kernel: Callable[..., Tensor]) -> Mix:
        row_beta = column_beta = None
        if self.position is not None:
            row, column = pixel_grid((1, size[1]), tokens_BGNC), pixel_grid((size[0], 1), tokens_BGNC)
            row_beta, column_beta = self.position(row, row), self.position(column, column)
        q, k = self.mode.project(scores, tokens_BGNC, tokens_BGNC)
        weights = criss_cross_weights(self.mode.log_weights, q, k.expand(-1, q.shape[1], -1, -1), size, row_beta,
                                      column_beta)
        return lambda values: mix_criss_cross(*weights, values)

    def _window(self, scores: tuple, tokens_BGNC: Tensor, size: tuple[int, int], kernel: Callable[..., Tensor]) -> Mix:
        window, shift = self.spec.window_size, self.spec.window_shift
        batch = tokens_BGNC.shape[0]
        # Padding must not be attended to: -inf for its keys, in every window that holds some.
        real = to_windows(tokens_BGNC.new_ones(1, 1, tokens_BGNC.shape[2], 1), size, window, shift)
        beta = real.new_zeros(real.shape).masked_fill(real == 0, -float('inf')).mT.repeat(batch, 1, 1, 1)
        if self.position is not None:
            grid = pixel_grid((window, window), tokens_BGNC)
            beta = beta + self.position(grid, grid)
        # Cut tokens, not projections: padded queries are finite whatever the mode, and are cut off again.
        cut = to_windows(tokens_BGNC, size, window, shift)
        q, k = self.mode.project(scores, cut, cut)
        return lambda values: from_windows(kernel(q, k, to_windows(values, size, window, shift), beta), size, window,
                                           shift)


