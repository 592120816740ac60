"""A stack of attention blocks: one block cannot give one far pixel much weight at a large N, a few in a row can."""
import torch
from torch import Tensor

from ..ops import Roulette
from .base import InverseInfo, InvertibleModule, composed_error
from .inv_nonlocal import InvNonLocal2d
from .mixing import OrthogonalMix
from .sequential import InvertibleSequential, largest_bound


class Mixed(InvertibleModule):
    """``y = U block(x)``: a block followed by an orthogonal 1x1 convolution.

    U keeps the norm of every token, so bounds and errors are those of the block.
    """

    def __init__(self, block: InvertibleModule, channels: int):
        super().__init__()
        self.block, self.mix = block, OrthogonalMix(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self.block(x))

    @torch.no_grad()
    def inverse(self, y: Tensor, tol: float = 1e-6, max_iter: int = 100,
                strict: bool = True) -> tuple[Tensor, InverseInfo]:
        stored = torch.finfo(y.dtype).eps
        y = y.to(torch.promote_types(y.dtype, torch.float32))
        x, info = self.block.inverse(self.mix(y, transpose=True), tol, max_iter, strict)
        # U is applied twice, and orthogonal up to rounding: an error of a few eps |y| before the block is inverted.
        rounding = 4 * (stored + y.shape[1]**0.5 * torch.finfo(y.dtype).eps) * self.error_norm(y)
        return x, info._replace(error_bound=composed_error(self.block, x, info, rounding))

    @torch.no_grad()
    def recover_input(self, y: Tensor, tol: float, max_iter: int) -> Tensor:
        return self.block.recover_input(self.mix(y, transpose=True), tol, max_iter)

    def lipschitz_bound(self, n: int | None = None) -> float | None:
        return self.block.lipschitz_bound(n)

    def bi_lipschitz_bound(self) -> tuple[float, float]:
        return self.block.bi_lipschitz_bound()

    def inverse_error(self, x: Tensor, error: Tensor, within: Tensor | float = 0.0) -> Tensor:
        return self.block.inverse_error(x, error, within)

    def log_abs_det(self, x: Tensor, n_terms: int | str | Roulette = 10, n_samples: int = 1) -> Tensor:
        return self.block.log_abs_det(x, n_terms, n_samples)

    def log_abs_det_error_bound(self, x: Tensor, n_terms: int | str | Roulette = 10) -> float | None:
        return self.block.log_abs_det_error_bound(x, n_terms)


class InvAttentionStack(InvertibleSequential):
    """Attention blocks with orthogonal 1x1 convolutions between them, (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C.
        num_blocks: blocks, usually 2 to 4. The bi-Lipschitz constants multiply: the error of the inverse is bounded by
            ``1 / (1 - L)`` to that power.
        block: further arguments of :class:`InvNonLocal2d`, the same for every block.

    Raises:
        ValueError: an argument breaks its rule; ``form='none'`` has no inverse.
    """

    def __init__(self, in_channels: int, num_blocks: int = 2, block: dict | None = None):
        if not isinstance(num_blocks, int) or num_blocks < 1:
            raise ValueError(f'num_blocks={num_blocks!r} is not a positive integer; 2 to 4 are usual')
        block = dict(block or {})
        if block.get('form') == 'none':
            raise ValueError('block has form=\'none\', which has no inverse: choose one of \'certified\', '
                             '\'conditional\', \'coupling\' or \'paper\'')
        blocks = [InvNonLocal2d(in_channels, **block) for _ in range(num_blocks)]
        super().__init__(*(Mixed(b, in_channels) for b in blocks[:-1]), blocks[-1])
        self.in_channels = in_channels

    def lipschitz_bound(self, n: int | None = None) -> float | None:
        """The largest of the blocks' bounds; of each one's branch, not of the stack minus the identity."""
        return largest_bound(block.lipschitz_bound(n) for block in self)
