"""Multi-head self-attention on feature maps with relative position encodings (Cordonnier et al.,
https://arxiv.org/abs/1911.03584).

    out_i = b + sum_h W_h sum_j P_ij^h v_j^h,      P_i.^h = softmax_j( q_i^h . k_j^h / sqrt(d) + logit_h(p_j - p_i) )

with v = x, or ``v^h = V_h x``. Without content there is no first term in the softmax, P is the same for every image,
and the layer is linear; see :mod:`.mixing` for its evaluation.

Shape suffixes: B batch, G heads, C channels, E value size, N pixels of the output, M attended pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...ops.attention import from_windows, pixel_grid, softmax_attention, to_windows, window_mask
from ..checks import check_choice, check_count, check_features, check_takes
from .conversion import conv_from_heads, heads_from_conv, place_heads, width_for
from .encoding import build_encoding
from .mixing import PositionMixing, mix_dense

CONTENT = ('none', 'only', 'both')


class RelativeSelfAttention2d(nn.Module):
    """(B, C, H, W) -> (B, out_channels, H / stride, W / stride), rounded up; for any feature size.

    Position-only attention with a separable encoding costs ``O(N (H + W) C)`` per head. With a full covariance it needs
    one N x N map for the batch; with content, torch's kernel gets the N x N logits of the positions as its mask.
    Windows make both maps small.

    Args:
        in_channels: C.
        out_channels: output channels; C by default.
        num_heads: G.
        encoding: ``'quadratic'`` (the default) or ``'learned_2d'``, unless ``content='only'``.
        covariance: of the quadratic encoding: ``'isotropic'`` (the default), ``'axis'`` or ``'full'``.
        content: ``'none'`` (position only), ``'only'`` or ``'both'``.
        key_channels: d, size of queries and keys of a head with content; C by default, as published.
        head_channels: E; None: the values of every head are x itself, and W_h has full rank, as published.
        position_size: offsets below this have their own entry in ``'learned_2d'``; 16 by default.
        position_channels: size of the embeddings of ``'learned_2d'``; 400 by default, as published.
        window: attend within windows with sides of this many pixels; None: everywhere.
        window_shift: pixels by which the windows are shifted.
        padding: width of a border of zeros that is attended to and then removed, as in a zero-padded convolution: a
            number or (rows, columns). Without padding, weight that would go outside stays inside; for heads that are
            shifts this is replicate padding.
        stride: the output has the pixels 0, stride, 2 stride, ... of the output with stride 1.
        groups: of the output map, as in a convolution.
        bias: whether the output and the queries have a bias.
        dropout: probability with which weights P are dropped in training; it needs the N x M map.

    Raises:
        ValueError: an argument breaks its rule.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        num_heads: int = 9,
        encoding: str | None = None,
        covariance: str | None = None,
        content: str = 'none',
        key_channels: int | None = None,
        head_channels: int | None = None,
        position_size: int | None = None,
        position_channels: int | None = None,
        window: int | None = None,
        window_shift: int = 0,
        padding: int | tuple[int, int] = 0,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__()
        out_channels = in_channels if out_channels is None else out_channels
        check_choice('content', content, CONTENT)
        if content == 'none':
            check_takes('key_channels', key_channels, "content='none'", "content='only' or 'both'")
        positions = dict(
            encoding=encoding, covariance=covariance, position_size=position_size, position_channels=position_channels
        )
        if content == 'only':
            for name, value in positions.items():
                check_takes(name, value, "content='only'", "content='none' or 'both'")
        key_channels = in_channels if key_channels is None else key_channels
        counts = dict(
            in_channels=in_channels,
            out_channels=out_channels,
            num_heads=num_heads,
            stride=stride,
            groups=groups,
            key_channels=key_channels,
            head_channels=head_channels,
            window=window,
        )
        for name, value in counts.items():
            if value is not None or name not in ('head_channels', 'window'):
                check_count(name, value)
        sides = (padding, padding) if isinstance(padding, int) else tuple(padding)
        self._check(in_channels, out_channels, groups, head_channels, window, window_shift, sides, dropout)
        self.padding = sides[0], sides[1]
        self.in_channels, self.out_channels, self.num_heads = in_channels, out_channels, num_heads
        self.window, self.window_shift, self.stride = window, window_shift, stride
        self.content, self.groups, self.dropout = content, groups, dropout
        self.mixing = self.query = self.key = self.value = None
        if content != 'only':
            positions = build_encoding(num_heads, encoding, covariance, position_size, position_channels)
            self.mixing = PositionMixing(positions, self.padding, stride, window, window_shift)
        if content != 'none':  # no bias for the keys, because it has no effect on the softmax
            self.query = nn.Conv2d(in_channels, num_heads * key_channels, 1, bias=bias)
            self.key = nn.Conv2d(in_channels, num_heads * key_channels, 1, bias=False)
        if head_channels is not None:
            self.value = nn.Conv2d(in_channels, num_heads * head_channels, 1, bias=False)
        width = in_channels // groups if head_channels is None else head_channels
        self.weight = nn.Parameter(torch.empty(out_channels, num_heads, width))
        nn.init.normal_(self.weight, std=(num_heads * width) ** -0.5)
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def _check(
        self,
        in_channels: int,
        out_channels: int,
        groups: int,
        head_channels: int | None,
        window: int | None,
        window_shift: int,
        padding: tuple[int, ...],
        dropout: float,
    ) -> None:
        if in_channels % groups or out_channels % groups or (groups > 1 and head_channels is not None):
            raise ValueError(
                f'groups={groups} must divide in_channels={in_channels} and out_channels={out_channels}, '
                f'and groups above 1 need head_channels=None (got {head_channels})'
            )
        if len(padding) != 2 or not all(isinstance(p, int) and p >= 0 for p in padding):
            raise ValueError(f'padding={padding} is neither a number of pixels nor (rows, columns) of them')
        if window is not None and any(padding):
            raise ValueError(
                f'padding={padding} belongs to attention over the whole map, but window={window} '
                'restricts it to parts: give one of the two'
            )
        if not 0 <= window_shift < (window or 1):
            raise ValueError(
                f'window_shift={window_shift} must be at least 0 and less than window={window}, and 0 without a '
                'window; half of the window is usual'
            )
        if not 0 <= dropout < 1:
            raise ValueError(f'dropout={dropout} must be at least 0 and less than 1')

    def forward(self, x: Tensor) -> Tensor:
        check_features(x, self.in_channels)
        if self.training and self.dropout:
            p_BGNM = F.dropout(self.attention_probabilities(x), self.dropout).to(x.dtype)
            v_BGEM = self._values(x).flatten(3)
            mixed_BGEN = mix_dense(p_BGNM[0], v_BGEM) if self.content == 'none' else v_BGEM @ p_BGNM.mT
        elif self.query is None and self.mixing is not None:
            positions = self.mixing.weights((x.shape[2], x.shape[3]))
            mixed_BGEN = self.mixing(self._values(x), positions).flatten(3)
        else:
            mixed_BGEN = self._content_attention(x)
        # group the channels as F.conv2d expects them: by group, then by head
        mixed = mixed_BGEN.unflatten(2, (self.groups, -1)).transpose(1, 2).flatten(1, 3)
        mixed = mixed.unflatten(2, (-1, -(-x.shape[3] // self.stride)))
        return F.conv2d(mixed, self.weight.flatten(1)[..., None, None], self.bias, groups=self.groups)

    def attention_probabilities(self, x: Tensor, queries: Tensor | None = None) -> Tensor:
        """P, the dense reference: (B, G, N, M) in float32 or higher; B is 1 without content.

        N are the pixels of the output, row by row, or only those listed in ``queries``; M are the pixels of x. With
        padding the rows sum to less than 1 near the border.
        """
        size = (x.shape[2], x.shape[3])
        if self.query is None and self.mixing is not None:
            return self.mixing.probabilities(size, queries)[None]
        up, left = self.padding
        x = F.pad(x, (left, left, up, up))
        wide, rows, columns = (x.shape[2], x.shape[3]), slice(up, up + size[0]), slice(left, left + size[1])
        place_HW = torch.arange(wide[0] * wide[1], device=x.device).unflatten(0, wide)[rows, columns]
        place_N = place_HW[:: self.stride, :: self.stride].flatten()
        place_N = place_N if queries is None else place_N[queries]
        q_BGND, k_BGMD = self.queries_and_keys(x)
        logits = (q_BGND[:, :, place_N] @ k_BGMD.mT).to(torch.promote_types(x.dtype, torch.float32))
        grid_M2 = pixel_grid(wide, x)
        if self.mixing is not None:
            logits = logits + self.mixing.encoding(grid_M2[place_N], grid_M2)
        if self.window is not None:
            index = (grid_M2 - self.window_shift).div(self.window, rounding_mode='floor')
            logits = logits.masked_fill((index[place_N][:, None] != index).any(-1), -torch.inf)
        return logits.softmax(-1)[..., place_HW.flatten()]

    def _values(self, x: Tensor) -> Tensor:
        """(B, G or 1, E, H, W)."""
        return x[:, None] if self.value is None else self.value(x).unflatten(1, (self.num_heads, -1))

    def queries_and_keys(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys of features (B, C, H, W), (B, G, N, d) each; the queries include the scale of the scores."""
        assert self.query is not None and self.key is not None, self.content
        q, k = (layer(x).flatten(2).unflatten(1, (self.num_heads, -1)).mT for layer in (self.query, self.key))
        return q * q.shape[-1] ** -0.5, k

    def _content_attention(self, x: Tensor) -> Tensor:
        up, left = self.padding
        x = F.pad(x, (left, left, up, up))
        size = (x.shape[2], x.shape[3])
        q, k = self.queries_and_keys(x)
        v = self._values(x).flatten(3).mT.expand(-1, self.num_heads, -1, -1)
        if self.window is None:
            beta = None
            if self.mixing is not None:
                grid_N2 = pixel_grid(size, x)
                beta = self.mixing.encoding(grid_N2, grid_N2)
            mixed_BGNE = softmax_attention(q, k, v, beta)
        else:
            q, k, v = (to_windows(t, size, self.window, self.window_shift) for t in (q, k, v))
            beta = window_mask(size, self.window, self.window_shift, x)
            if self.mixing is not None:
                grid_P2 = pixel_grid((self.window, self.window), x)
                beta = beta + self.mixing.encoding(grid_P2, grid_P2)
            beta = beta.repeat(x.shape[0], 1, 1, 1)
            mixed_BGNE = from_windows(softmax_attention(q, k, v, beta), size, self.window, self.window_shift)
        mixed = mixed_BGNE.mT.unflatten(3, size)[..., up : size[0] - up, left : size[1] - left]
        return mixed[..., :: self.stride, :: self.stride].flatten(3)

    @classmethod
    def from_conv2d(cls, conv: nn.Conv2d, width: float | None = None) -> 'RelativeSelfAttention2d':
        """The layer that expresses a convolution with one head for each tap.

        Args:
            conv: odd kernel, any dilation, stride, groups and bias; ``'zeros'`` padding of half the kernel, or
                ``'replicate'`` padding.
            width: alpha of the paper, in 1 / pixel^2. A head gives ``shift_error(width)`` of its weight to offsets
                other than its tap. By default the width is so large that this is no more than the rounding of the dtype
                (17 in float32, 37 in float64). The gradients of centres and widths are then practically 0; to train
                from a convolution, use 2 to 4.

        Raises:
            ValueError: a convolution that the layer cannot express.
        """
        centre_G2, weight_OGC, padding = heads_from_conv(conv)
        width = width_for(weight_OGC.dtype) if width is None else width
        if not width > 0:
            raise ValueError(f'width={width} must be positive, in 1 / pixel^2; the paper uses 46')
        layer = cls(
            conv.in_channels,
            conv.out_channels,
            len(centre_G2),
            padding=padding,
            stride=conv.stride[0],
            groups=conv.groups,
            bias=conv.bias is not None,
        ).to(weight_OGC)
        assert layer.mixing is not None
        place_heads(layer.mixing, centre_G2, width)
        with torch.no_grad():
            layer.weight.copy_(weight_OGC)
            if conv.bias is not None and layer.bias is not None:
                layer.bias.copy_(conv.bias)
        return layer

    @torch.no_grad()
    def to_conv2d(self) -> tuple[nn.Conv2d, float]:
        """The nearest convolution among those with a tap at the offset to which each head gives most weight.

        Returns:
            The convolution, and a bound of ``|layer(x) - conv(x)|_inf2 / |x|_inf2`` away from the border of a map.

        Raises:
            ValueError: the weights depend on the content or are cut by windows, or values have a projection.
        """
        if self.mixing is None or self.content != 'none' or self.window is not None or self.value is not None:
            raise ValueError(
                f'a layer with content={self.content!r}, window={self.window} and head_channels='
                f'{None if self.value is None else self.weight.shape[2]} cannot be converted to a convolution: '
                "this needs content='none', window=None and head_channels=None"
            )
        return conv_from_heads(self.mixing, self.weight, self.bias, self.groups)

    def extra_repr(self) -> str:
        return f'{self.in_channels}, {self.out_channels}, num_heads={self.num_heads}, content={self.content!r}'
