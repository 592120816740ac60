"""Parameters that start from the data: the first training batch sets them, nothing after it does."""
from abc import ABC, abstractmethod

import torch
import torch.distributed as dist
from torch import Tensor, nn


class DataDependentStart(nn.Module, ABC):
    """Sets its parameters from the first batch that it sees in training mode, of all processes together.

    After that train and eval mode are the same map. That it happened is saved with the state, so a loaded layer keeps
    what it has. A subclass calls ``start(x)`` first thing in ``forward`` and defines ``_initialise(x)``.
    """

    def __init__(self):
        super().__init__()
        self.register_buffer('initialised', torch.tensor(False))
        self._settled = False  # a copy of the buffer: reading that one at every step would wait for the device

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        """Initialises from x where that is still to do."""
        if self._settled or not self.training:
            return
        if not self.initialised:
            self._initialise(x.detach())
            self.initialised.fill_(True)
        self._settled = True

    @abstractmethod
    def _initialise(self, x: Tensor) -> None:
        """Sets the parameters; called without gradients, by every process at once."""

    def _load_from_state_dict(self, *args) -> None:
        super()._load_from_state_dict(*args)
        self._settled = False


def sum_of_processes(x: Tensor) -> Tensor:
    """The sum of x over all processes, x itself in a single one."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(x)
    return x
