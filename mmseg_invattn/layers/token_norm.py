"""The invertible affine normalisation before a certified branch.

The branch reads ``B((x - m) / a)`` and its output is multiplied by a: a similarity, so the Lipschitz constant is the
same in the units of the features as in the units of the ball, and the certificate does not know of it.
"""
import torch
import torch.distributed as dist
from torch import Tensor, nn


class TokenNorm(nn.Module):
    """``(x - m) / a`` with m and a learned, set from the first training batch so that tokens have an RMS norm of 1.

    As in ActNorm the start depends on the data and nothing after it does: train and eval mode give the same output.
    Under distributed training the first batch of all processes counts.

    Args:
        channels: C, channels of a group.
        groups: G; each has an m of shape (C,) and a number a of its own.
    """

    def __init__(self, channels: int, groups: int = 1):
        super().__init__()
        self.centre = nn.Parameter(torch.zeros(groups, channels))
        self.log_scale = nn.Parameter(torch.zeros(groups))
        self.register_buffer('initialised', torch.tensor(False))
        self._settled = False  # a copy of the buffer: reading that one at every step would wait for the device

    def forward(self, x_BGNC: Tensor, frozen: bool = False) -> Tensor:
        if self.training and not self._settled and not frozen:
            self._initialise(x_BGNC.detach())
        return (x_BGNC - self.centre[:, None]) * torch.exp(-self.log_scale)[:, None, None]

    def scale(self) -> Tensor:
        """a, shape (G, 1, 1), to multiply tokens with."""
        return torch.exp(self.log_scale)[:, None, None]

    @torch.no_grad()
    def _initialise(self, x_BGNC: Tensor) -> None:
        if not self.initialised:
            x = x_BGNC.to(self.centre.dtype)
            count = torch.full((), x.shape[0] * x.shape[2], dtype=x.dtype, device=x.device)
            total = _sum_of_processes(count)
            self.centre.copy_(_sum_of_processes(x.sum((0, 2))) / total)
            square = _sum_of_processes((x - self.centre[:, None]).square().sum((0, 2, 3))) / total
            # Features that are all equal have no scale of their own.
            self.log_scale.copy_(torch.where(square > 0, square, 1).log() / 2)
            self.initialised.fill_(True)
        self._settled = True

    def _load_from_state_dict(self, *args) -> None:
        super()._load_from_state_dict(*args)
        self._settled = False


def _sum_of_processes(x: Tensor) -> Tensor:
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(x)
    return x
