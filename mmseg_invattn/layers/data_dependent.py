"""Parameters that start from the data: the first training batch sets them, nothing after it does."""

from abc import ABC, abstractmethod

import torch
import torch.distributed as dist
from torch import Tensor, nn


class DataDependentStart(nn.Module, ABC):
    """Sets its parameters from the first batch that it sees in training mode, of all processes together.

    After that train and eval mode are the same map. That it happened is saved with the state, so a loaded layer keeps
    what it has. The layer that holds it asks for :meth:`start` before a forward pass, and only there: an inverse or a
    bound changes nothing. A subclass defines ``statistics(x)``.
    """

    initialised: Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer('initialised', torch.tensor(False))
        self._settled = False  # a copy of the buffer: reading that one at every step would wait for the device

    def waits(self) -> bool:
        """Whether the next batch is the first one."""
        if self._settled or not self.training:
            return False
        self._settled = bool(self.initialised)
        return not self._settled

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        """Initialises from x where that is still to do.

        Raises:
            ValueError: x, of any process, holds NaN or inf: nothing is set then.
        """
        if not self.waits():
            return
        values = self.statistics(x.detach())
        if not all(value.isfinite().all() for value in values.values()):
            raise ValueError(
                f'the first training batch gives a {type(self).__name__} statistics that are not finite: it holds NaN '
                'or inf, or overflows. Nothing was set; find the layer or the image that made them, and lower the '
                'learning rate or switch AMP off if it is training that did'
            )
        for name, value in values.items():
            getattr(self, name).copy_(value)
        self.initialised.fill_(True)
        self._settled = True

    @abstractmethod
    def statistics(self, x: Tensor) -> dict[str, Tensor]:
        """Values of the parameters by name; called without gradients, by every process at once."""

    def _load_from_state_dict(self, *args) -> None:
        super()._load_from_state_dict(*args)
        self._settled = False


def sum_of_processes(x: Tensor) -> Tensor:
    """The sum of x over all processes, x itself in a single one."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(x)
    return x
