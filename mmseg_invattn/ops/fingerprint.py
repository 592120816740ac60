"""Whether tensors still hold the values that they held.

Version counters do not tell: fused optimisers, ``.data`` and another process's shared memory change a tensor without
raising them. So the bits of its numbers, read as integers, are added up modulo 2^32 or 2^64. Any change of a single
number changes the sum; what moves numbers about and changes none of them does not, and no optimiser does that.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def fingerprint(tensors: Iterable[Tensor]) -> list[Tensor]:
    """One integer for each tensor, on its device, without waiting for it; it takes one reading of the values."""
    return [_sum_of_bits(tensor) for tensor in tensors]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    """Whether two fingerprints of the same tensors agree; on an accelerator this waits for its queue."""
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def _sum_of_bits(tensor: Tensor) -> Tensor:
    tensor = getattr(tensor, '_local_tensor', tensor)  # of a DTensor: this process's share
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    bits = tensor.detach().contiguous().view(INTEGERS[tensor.element_size()])
    return bits.sum(dtype=bits.dtype if bits.element_size() >= 4 else torch.int64)
