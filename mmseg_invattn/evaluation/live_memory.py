"""Bytes of the tensors that are alive while a function runs: exact, and the same at every run.

Every operation of torch passes through a ``TorchDispatchMode``. A storage counts from the operation that makes it until
its last tensor is gone, so the activations that a graph keeps count, and the gradients, and what an inverse remembers
between its steps. Not counted are the workspaces of kernels and what an allocator reserves.

Floating-point values need not exist for that: with ``FakeTensorMode`` an operation only derives the shape of what it
would return, so images of any size take no memory and no time. Where a program decides by a value (has the solver
converged?), the decision is taken from a rehearsal, a run with values on small images. Parameters, labels, indices and
what is made of these alone keep their values.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, UnsupportedFakeTensorException
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
READS = (aten._local_scalar_dense.default, aten.equal.default)


class UndecidedError(RuntimeError):
    """A program decides by a value that does not exist, and no rehearsal has it."""


class LiveMemory(TorchDispatchMode):
    """Counts while it is entered; backward passes within it count, too.

    Attributes:
        live: bytes alive now.
        peak: most bytes that were alive at one time.
        decisions: values by which the program decided, in their order.

    Args:
        known: tensors that do not count, such as parameters and buffers.
        limit: bytes that may be alive; more raise a MemoryError.
    """

    def __init__(self, known: Iterable[Tensor] = (), limit: int | None = None):
        super().__init__()
        self.live = self.peak = 0
        self.limit, self.decisions = limit, []
        self._seen = weakref.WeakSet(t.untyped_storage() for t in known)

    def count(self, tensor: Tensor) -> None:
        """Count the storage of a tensor until it is freed."""
        storage = tensor.untyped_storage()
        if storage in self._seen:
            return
        size = storage.nbytes()
        self._seen.add(storage)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._freed, size)
        if self.limit is not None and self.live > self.limit:
            raise MemoryError(f'{self.live:,} bytes are alive, and {self.limit:,} are allowed')

    def _freed(self, size: int) -> None:
        self.live -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = self.evaluated(func, args, kwargs or {})
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.count(leaf)
        return out

    def evaluated(self, func: Any, args: tuple, kwargs: dict) -> Any:
        """What an operation returns; notes the values that the program reads."""
        out = func(*args, **kwargs)
        if func in READS:
            self.decisions.append((func, out))
        elif func is aten.index.Tensor:
            self.decisions += [(func, mask.clone()) for mask in masks(args[1])]
        return out


class LiveShapes(LiveMemory):
    """Counts without computing: tensors made of ``images`` and new floating-point ones have only a shape.

    Args:
        known: as for :class:`LiveMemory`.
        rehearsed: decisions of a run with values.

    Raises:
        UndecidedError: out of an operation, where the program decides by a value and the rehearsal did not.
    """

    def __init__(self, known: Iterable[Tensor] = (), rehearsed: Iterable[tuple] = ()):
        known = list(known)
        super().__init__(known)
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        # Operations with such a tensor see its double, which does not count either and has to live as long.
        self._doubles = [self.fake.from_tensor(tensor) for tensor in known]
        self._seen.update(t.untyped_storage() for t in self._doubles)
        self._rehearsed: Iterator[tuple] = iter(rehearsed)

    def evaluated(self, func: Any, args: tuple, kwargs: dict) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not tensors:
            return self._made(func, args, kwargs)
        fake = any(isinstance(tensor, FakeTensor) for tensor in tensors)
        if func in READS:
            value = self._decision(func, fake)
            return value if fake else func(*args, **kwargs)
        if func is aten.index.Tensor:
            decided = [self._decided(mask) for mask in masks(args[1])]
            if fake and decided:
                args = (args[0], list(_as_indices(args[1], decided)), *args[2:])
        try:
            return func(*args, **kwargs)
        except UnsupportedFakeTensorException as error:
            raise UndecidedError(str(error)) from error
        except RuntimeError as error:
            if fake and 'fake_tensor' in type(error).__module__:
                raise UndecidedError(f'the result of {func} depends on values') from error
            raise

    def _made(self, func: Any, args: tuple, kwargs: dict) -> Any:
        with self.fake:
            out = func(*args, **kwargs)
        if isinstance(out, Tensor) and not out.is_floating_point() and not out.is_complex():
            return func(*args, **kwargs)
        return out

    def _decision(self, func: Any, needed: bool) -> Any:
        found, value = next(self._rehearsed, (None, None))
        if needed and found is not func:
            raise UndecidedError(f'{func} reads a value')
        return value

    def _decided(self, mask: Tensor) -> Tensor:
        """The mask, or that of the rehearsal, whose batch was a divisor of this one's."""
        known = self._decision(aten.index.Tensor, isinstance(mask, FakeTensor))
        if not isinstance(mask, FakeTensor):
            return mask
        if mask.dim() != 1 or len(mask) % max(len(known), 1):
            raise UndecidedError(f'a mask of shape {tuple(mask.shape)} depends on values')
        return known.repeat(len(mask) // len(known))


def masks(indices: Iterable[Tensor | None]) -> list[Tensor]:
    """Those of the indices that choose by true and false."""
    return [index for index in indices if index is not None and index.dtype in (torch.bool, torch.uint8)]


def _as_indices(indices: Iterable[Tensor | None], decided: list[Tensor]) -> Iterator[Tensor | None]:
    """The indices with numbers in place of masks."""
    left = iter(decided)
    for index in indices:
        if index is not None and index.dtype in (torch.bool, torch.uint8):
            yield from next(left).nonzero(as_tuple=True)
        else:
            yield index
