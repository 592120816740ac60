"""Detects whether the values of tensors have changed.

Version counters are not enough: fused optimisers, ``.data``, views and another process with shared memory change a
tensor without increasing its counter. So the values are hashed,

    sum_i bits_i h_i  mod 2^64,      h_i odd and different for every place i

Any change of a single number changes the hash. Two changes at once leave it the same with a probability of about 2^-64.
A sum without h_i would miss a tensor multiplied by 2, or by -1.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

CHUNK = 2**18  # numbers hashed at a time; their temporary integers take 4 MiB
MULTIPLIER = -7046029254386353131  # 2^64 / golden ratio, odd, as a signed integer
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def fingerprint(tensors: Iterable[Tensor]) -> list[Tensor]:
    """One int64 number for each tensor, on its device, without waiting for that device."""
    bits = [_bits(tensor) for tensor in tensors]
    most = min(max((b.numel() for b in bits), default=0), CHUNK)
    places = {device: _places(most, device) for device in {b.device for b in bits}}
    return [_hash(b, places[b.device]) for b in bits]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    """Whether two fingerprints of the same tensors agree. On an accelerator this waits for its queue."""
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def _bits(tensor: Tensor) -> Tensor:
    tensor = getattr(tensor, '_local_tensor', tensor)  # of a DTensor: the part that this process holds
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    return tensor.detach().contiguous().view(INTEGERS[tensor.element_size()]).flatten()


def _places(count: int, device: torch.device) -> Tensor:
    """h_i of the first ``count`` places."""
    return torch.arange(count, device=device).mul_(MULTIPLIER).mul_(2).add_(1)


def _hash(bits: Tensor, places: Tensor) -> Tensor:
    total = torch.zeros((), dtype=torch.int64, device=bits.device)
    for number, part in enumerate(bits.split(CHUNK)):
        total += (part * places[: len(part)]).sum() * (2 * number + 1)
    return total
