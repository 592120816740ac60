"""Triton kernels in Triton's interpreter on the CPU, in a process of their own; prints the errors found.

TRITON_INTERPRET=1 python triton_interpreted.py
"""

import json

from triton.language import bfloat16, float32
from triton.runtime.interpreter import InterpreterBuilder
from triton_cases import measured

multiply = InterpreterBuilder.create_dot


def multiply_numbers(builder, a, b, *rest):
    """The interpreter multiplies the bits of bfloat16 as integers; here their values."""
    a, b = (builder.cast_impl(x, float32) if x.dtype.scalar == bfloat16 else x for x in (a, b))
    return multiply(builder, a, b, *rest)


if __name__ == '__main__':
    InterpreterBuilder.create_dot = multiply_numbers
    print(json.dumps(measured('cpu')))
