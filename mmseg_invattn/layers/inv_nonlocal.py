"""The attention block of this project: a mode (how pixels score each other) in a form (how a branch is a block)."""
from collections.abc import Sequence

from torch import Tensor

from ..ops import Roulette
from .base import InverseInfo, InvertibleModule
from .forms import FORMS
from .spec import AttentionSpec, check_choice


class InvNonLocal2d(InvertibleModule):
    """Attention over the pixels of a feature map, (B, C, H, W) -> (B, C, H, W), with an inverse.

    Args:
        in_channels: C.
        reduction: channels of a head over the size of its queries, keys and values (form ``'paper'``: of queries and
            keys; the paper has 4).
        mode: how pixels score each other: ``'gaussian'``, ``'embedded_gaussian'``, ``'dot_product'``,
            ``'concatenation'`` or ``'l2'``.
        form: ``'certified'`` (a contraction by construction, with an inverse and its error bound), ``'conditional'``
            (half of the channels steers, the other half is mixed linearly: certified at any sharpness),
            ``'coupling'`` (ordinary attention in an additive coupling: exact in one pass, nothing bounded),
            ``'paper'`` (as its authors publish it, not certified) or ``'none'`` (the ordinary non-local block).
        contraction: bound c of the branch's Lipschitz constant, in (0, 1). Nearer to 1 means a stronger branch and
            more iterations in the inverse. Of no effect in the last three forms, like ``sharpness`` and ``heads``.
        sharpness: s, the largest content logit: a number; ``'learned'``, one a head; or ``'log_n'``, ln(N)/2 for the
            N pixels at hand. In form ``'certified'`` the gain of the branch is ``c / (s + sqrt(1 + s^2))`` for a
            softmax of inner products: 0.37, 0.21, 0.15 for s = 1, 2, 3 and c = 0.9. In ``'conditional'`` it is free.
        num_heads: heads; ``in_channels`` is a multiple of ``num_heads * reduction``.
        heads: ``'grouped'`` (each head has a channel group of its own, mixed by an orthogonal 1x1 convolution outside
            the branch) or ``'shared'`` (all heads read the same tokens and share the gain).
        bias: biases of the projections and of the output.
        position: logits that depend on where key and query are and cost no certificate: None, ``'learned'`` (tables
            for row and column offsets, clipped beyond ``position_size``) or ``'quadratic'`` (centre and width a head).
        position_size: offsets with an entry of their own in the learned tables.
        key_pooling: attend to means over parts of the map, in O(N M): None, a stride, or pyramid bins (1, 3, 6, 8).
        neighbourhood: ``'full'``, ``'criss_cross'`` (row and column of the pixel) or ``'window'``; in the first
            three forms.
        window_size: pixels along a side of a window.
        window_shift: pixels by which the windows are shifted, below ``window_size``; the first of a row is cut then.
        gamma: of form ``'paper'``: ``'conv'``, or ``'scalar'`` for the tanh of a number that starts at 0.

    Raises:
        ValueError: an argument breaks its rule.

    Example:
        >>> block = InvNonLocal2d(in_channels=8)
        >>> x = torch.randn(2, 8, 5, 7)
        >>> x_hat, info = block.inverse(block(x))
        >>> bool(((x_hat - x).norm(dim=1).amax((1, 2)) <= info.error_bound).all())
        True
    """

    def __init__(self,
                 in_channels: int,
                 reduction: int = 2,
                 mode: str = 'embedded_gaussian',
                 form: str = 'certified',
                 contraction: float = 0.9,
                 sharpness: float | str = 2.0,
                 num_heads: int = 1,
                 heads: str = 'grouped',
                 bias: bool = True,
                 position: str | None = None,
                 position_size: int = 32,
                 key_pooling: int | Sequence[int] | None = None,
                 neighbourhood: str = 'full',
                 window_size: int = 8,
                 window_shift: int = 0,
                 gamma: str = 'conv'):
        super().__init__()
        check_choice('form', form, FORMS)
        spec = AttentionSpec(in_channels, reduction, mode, contraction, sharpness, num_heads, heads, bias, position,
                             position_size, key_pooling, neighbourhood, window_size, window_shift, gamma)
        self.in_channels, self.mode, self.form = in_channels, mode, form
        self.block = FORMS[form](spec)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)

    def inverse(self, y: Tensor, tol: float = 1e-6, max_iter: int = 100,
                strict: bool = True) -> tuple[Tensor, InverseInfo]:
        return self._invertible('inverse').inverse(y, tol, max_iter, strict)

    def recover_input(self, y: Tensor, tol: float, max_iter: int) -> Tensor:
        return self._invertible('inverse').recover_input(y, tol, max_iter)

    def lipschitz_bound(self, n: int | None = None) -> float | None:
        """Certified upper bound of the branch's Lipschitz constant in the norm inf2; None in a form without one.

        Args:
            n: number of pixels, for ``sharpness='log_n'`` and mode l2, whose gain follows it; None: for all of them.
        """
        return self.block.lipschitz_bound(n) if isinstance(self.block, InvertibleModule) else None

    def inverse_error(self, x: Tensor, error: Tensor, within: Tensor | float = 0.0) -> Tensor:
        return self._invertible('inverse').inverse_error(x, error, within)

    def bi_lipschitz_bound(self) -> tuple[float, float]:
        return self._invertible('inverse').bi_lipschitz_bound()

    def log_abs_det(self, x: Tensor, n_terms: int | str | Roulette = 10, n_samples: int = 1) -> Tensor:
        return self._invertible('inverse, so no log-determinant').log_abs_det(x, n_terms, n_samples)

    def log_abs_det_error_bound(self, x: Tensor, n_terms: int | str | Roulette = 10) -> float | None:
        return self._invertible('inverse, so no log-determinant').log_abs_det_error_bound(x, n_terms)

    def local_lipschitz(self, x: Tensor) -> Tensor:
        """Measured lower bound, at x, of the constant that :meth:`lipschitz_bound` bounds from above, shape (B,).

        By power iteration on the Jacobian, in the same norm; without a certificate, of the map ``y - x``.
        """
        return self.block.local_lipschitz(x)

    def saturation(self, x: Tensor) -> Tensor:
        """Share of the tokens that the ball of the scores saturates, shape (B,); forms certified and conditional."""
        if not hasattr(self.block, 'saturation'):
            raise TypeError(f'form={self.form!r} has no ball that tokens could saturate: build the block with '
                            'form=\'certified\' or \'conditional\'')
        return self.block.saturation(x)

    def _invertible(self, what: str) -> InvertibleModule:
        if not isinstance(self.block, InvertibleModule):
            raise TypeError(f'form={self.form!r} has no {what}: build the block with form=\'certified\'')
        return self.block

    def extra_repr(self) -> str:
        return f'{self.in_channels}, mode={self.mode!r}, form={self.form!r}'
