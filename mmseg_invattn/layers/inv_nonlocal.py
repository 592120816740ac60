"""The attention block of this project: a mode (how pixels score each other) in a form (how a branch is a block)."""
from torch import Tensor

from ..ops import Roulette
from .base import InverseInfo, InvertibleModule
from .forms import FORMS
from .modes import MODES


class InvNonLocal2d(InvertibleModule):
    """Attention over the pixels of a feature map, (B, C, H, W) -> (B, C, H, W), with an inverse.

    Args:
        in_channels: C.
        reduction: channels of a head over the size of its queries, keys and values.
        mode: how pixels score each other: ``'embedded_gaussian'``.
        form: ``'certified'`` (a contraction by construction, with an inverse and its error bound) or ``'none'`` (the
            ordinary non-local block, not invertible).
        contraction: bound c of the branch's Lipschitz constant, in (0, 1). Nearer to 1 means a stronger branch and
            more iterations in the inverse.
        sharpness: s, the largest content logit. The gain of the branch is ``c / (s + sqrt(1 + s^2))``: 0.37, 0.21,
            0.15 for s = 1, 2, 3 and c = 0.9.
        num_heads: heads; ``in_channels`` is a multiple of ``num_heads * reduction``.

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
                 sharpness: float = 2.0,
                 num_heads: int = 1):
        super().__init__()
        _check_choice('mode', mode, MODES)
        _check_choice('form', form, FORMS)
        if not 0 < contraction < 1:
            raise ValueError(f'contraction={contraction} is outside (0, 1): the inverse exists for a branch whose '
                             'Lipschitz constant is below 1; the default is 0.9')
        if not 0 < sharpness < float('inf'):
            raise ValueError(f'sharpness={sharpness} is not a positive number: it bounds the content logits; the '
                             'default is 2.0')
        for name, value in (('in_channels', in_channels), ('reduction', reduction), ('num_heads', num_heads)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f'{name}={value!r} is not a positive integer')
        if in_channels % (num_heads * reduction):
            raise ValueError(f'in_channels={in_channels} is not a multiple of num_heads * reduction = {num_heads} * '
                             f'{reduction}: choose heads and a reduction that divide the channels')
        self.in_channels, self.mode, self.form = in_channels, mode, form
        self.block = FORMS[form](MODES[mode], in_channels, reduction, num_heads, contraction, sharpness)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)

    def inverse(self, y: Tensor, tol: float = 1e-6, max_iter: int = 100,
                strict: bool = True) -> tuple[Tensor, InverseInfo]:
        return self._invertible().inverse(y, tol, max_iter, strict)

    def lipschitz_bound(self) -> float | None:
        return self.block.lipschitz_bound() if isinstance(self.block, InvertibleModule) else None

    def bi_lipschitz_bound(self) -> tuple[float, float]:
        return self._invertible().bi_lipschitz_bound()

    def log_abs_det(self, x: Tensor, n_terms: int | str | Roulette = 10, n_samples: int = 1) -> Tensor:
        return self._invertible().log_abs_det(x, n_terms, n_samples)

    def log_abs_det_error_bound(self, x: Tensor, n_terms: int | str | Roulette = 10) -> float | None:
        return self._invertible().log_abs_det_error_bound(x, n_terms)

    def _invertible(self) -> InvertibleModule:
        if not isinstance(self.block, InvertibleModule):
            raise TypeError(f'form={self.form!r} has no inverse: build the block with form=\'certified\'')
        return self.block

    def extra_repr(self) -> str:
        return f'{self.in_channels}, mode={self.mode!r}, form={self.form!r}'


def _check_choice(name: str, value: str, choices: dict) -> None:
    if value not in choices:
        raise ValueError(f'{name}={value!r} is unknown: choose one of {", ".join(map(repr, choices))}')
