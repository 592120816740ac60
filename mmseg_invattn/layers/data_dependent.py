"""Parameters that are initialised from the data: only the first training batch sets them."""

from abc import ABC, abstractmethod

import torch
import torch.distributed as dist
from torch import Tensor, nn


class DataDependentStart(nn.Module, ABC):
    """Sets its parameters from the first batch in training mode, using the batches of all processes together.

    After that, train and eval mode are the same map. Whether it is initialised is saved with the state, so a loaded
    layer keeps its parameters. Only a forward pass of the layer that holds this module calls :meth:`start`; an inverse
    or a bound changes nothing. A subclass defines ``statistics(x)``.
    """

    initialised: Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer('initialised', torch.tensor(False))
        self._settled = False  # copy of the buffer: reading the buffer at every step would wait for the device

    def waits(self) -> bool:
        """Whether the next batch is the first one."""
        if self._settled or not self.training:
            return False
        self._settled = bool(self.initialised)
        return not self._settled

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        """Initialises the parameters from x, unless that was done already.

        Raises:
            ValueError: x holds NaN or inf in any process; then nothing is set.
        """
        if not self.waits():
            return
        values = self.statistics(x.detach())
        if not all(value.isfinite().all() for value in values.values()):
            raise ValueError(
                f'the statistics that {type(self).__name__} takes from the first training batch are not finite: the '
                'batch holds NaN or inf, or overflows. Nothing was set. Find the layer or the image that produces '
                'these values; if training produced them, lower the learning rate or switch AMP off'
            )
        for name, value in values.items():
            getattr(self, name).copy_(value)
        self.initialised.fill_(True)
        self._settled = True

    @abstractmethod
    def statistics(self, x: Tensor) -> dict[str, Tensor]:
        """Values of the parameters by name. Called without gradients, by all processes at the same time."""

    def _load_from_state_dict(self, *args) -> None:
        super()._load_from_state_dict(*args)
        self._settled = False


def sum_of_processes(x: Tensor) -> Tensor:
    """The sum of x over all processes, or x itself if there is only one."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(x)
    return x
