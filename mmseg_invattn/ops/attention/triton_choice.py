"""When the Triton kernels are used: on a GPU, and only after a trial on it has agreed with the torch operators.

A compiled kernel can fail on a device, or with a compiler, for which it was never tested. So the first call for a
device, a dtype and a pair of widths runs both passes on a small input and compares them with the reference in float64.
If the kernels raise an error or differ, torch's operators are used from then on, and one warning names the error.

``torch.compile`` does not trace this code: it runs inside the custom operator, which is opaque.
"""

import warnings
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

Reference = tuple[Callable[..., tuple[Tensor, ...]], Callable[..., tuple[Tensor, ...]]]

# Errors that a trial allows, relative to the largest number. For float32 it covers the rounding of sums; a product in
# TF32 would exceed it a hundred times. For half precision it covers weights and gradients rounded to that type.
TRIAL_ERRORS = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
# Exact products of float32 do not use the tensor cores, and cuBLAS is fast at them. The kernels save the memory
# traffic of the N x M map, which is the same for every width; what they may lose on the products grows with the width.
WIDEST_FLOAT32 = 256
_CHOSEN: dict[tuple, ModuleType | None] = {}


def triton_kernels(
    device: torch.device, dtype: torch.dtype, size: int, values: int, reference: Reference
) -> ModuleType | None:
    """The module ``triton_blocked_positive`` if it is to be used, or None if torch's operators are.

    Args:
        size: of queries and keys.
        values: size of the values.
        reference: ``(q, k, v) -> (out, z, s)`` and ``(grad, q, k, v, out, z, s) -> (dq, dk, dv, ...)``.
    """
    if device.type != 'cuda' or dtype not in TRIAL_ERRORS or not _installed():
        return None
    if dtype == torch.float32 and size + values > WIDEST_FLOAT32:
        return None
    key = device, dtype, size, values
    if key not in _CHOSEN:
        if torch.cuda.is_current_stream_capturing():  # a CUDA graph: nothing may wait for the device now
            return None
        _CHOSEN[key] = _tried(*key, reference)
    return _CHOSEN[key]


@cache
def _installed() -> bool:
    return find_spec('triton') is not None


def _imported() -> ModuleType:
    from . import triton_blocked_positive

    return triton_blocked_positive


def _tried(device: torch.device, dtype: torch.dtype, size: int, values: int, reference: Reference) -> ModuleType | None:
    try:
        kernels = _imported()
        trial(kernels, device, dtype, size, values, reference)
    except Exception as error:  # whatever a compiler or a driver raises: the torch operators remain
        warnings.warn(
            f'Triton kernels of dot-product attention ({dtype}, widths {size} and {values}) failed on {device}, so '
            f'torch operators are used instead: {type(error).__name__}: {error}',
            stacklevel=2,
        )
        return None
    return kernels


def trial(
    kernels: ModuleType, device: torch.device, dtype: torch.dtype, size: int, values: int, reference: Reference
) -> None:
    """Runs both passes on two heads with several tiles, the last ones not full.

    Raises:
        ArithmeticError: the results differ from those of the reference.
    """
    generator = torch.Generator(device).manual_seed(0)
    q, k, v, grad = (
        torch.randn(1, 2, count, last, device=device, generator=generator)
        for count, last in ((70, size), (133, size), (133, values), (70, values))
    )
    inputs, grad = tuple(x.to(dtype) for x in (q * size**-0.5, k, v)), grad.to(dtype).float()
    ours = kernels.forward(*inputs)
    ours += kernels.backward(grad, *inputs, *ours)
    inputs = tuple(x.double() for x in inputs)
    theirs = reference[0](*inputs)
    theirs += reference[1](grad.double(), *inputs, *theirs)[:3]
    for name, got, expected in zip(
        ('out', 'z e^s', 'dq', 'dk', 'dv'), _comparable(*ours), _comparable(*theirs), strict=True
    ):
        error = float((got - expected).abs().amax() / expected.abs().amax())
        if not error <= TRIAL_ERRORS[dtype]:  # a NaN as well
            raise ArithmeticError(f'{name} is off by {error:.1e} of its largest number')


def _comparable(out: Tensor, z: Tensor, s: Tensor, *gradients: Tensor) -> tuple[Tensor, ...]:
    """The results, with the shift of the normaliser undone. The scores of the trial are of order 1."""
    return out, z * s.exp(), *gradients
