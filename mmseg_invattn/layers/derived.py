"""What a layer derives from its parameters (normalised weights, bounds), kept while the parameters stay the same."""
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps

import torch
from torch import Tensor, nn

_CONSTANT = ContextVar('derived_as_constant', default=False)


@contextmanager
def derived_as_constants() -> Iterator[None]:
    """Inside, layers take what they keep as it is, without a look at the parameters: for an exporter, whose graph then
    holds the normalised weights instead of the normalisation. Run the model once without gradients before."""
    token = _CONSTANT.set(True)
    try:
        yield
    finally:
        _CONSTANT.reset(token)


class Derives(nn.Module):
    """A module with methods marked :func:`derived`.

    Parameters are told apart by their storage and their version counter, which every in-place change raises.
    ``parameter.data`` hides changes from that counter, as from autograd: ``train()``, ``eval()``, ``to()`` and their
    like therefore forget what was kept, and code that writes to ``.data`` calls one of them afterwards.
    """

    def __init__(self):
        super().__init__()
        self._kept: tuple[tuple, dict] = ((), {})

    def train(self, mode: bool = True):
        self._kept = ((), {})
        return super().train(mode)

    def _apply(self, fn, recurse: bool = True):
        self._kept = ((), {})
        return super()._apply(fn, recurse)


def derived(method: Callable) -> Callable:
    """Keeps the result of a method that depends on the parameters and its arguments alone.

    With gradients enabled, and while a compiler or an exporter traces, it is computed anew; but see
    :func:`derived_as_constants`.
    """

    @wraps(method)
    def keeping(self: Derives, *args):
        name = method.__qualname__, *args
        if not torch.compiler.is_dynamo_compiling() and _CONSTANT.get() and name in self._kept[1]:
            return self._kept[1][name]
        parameters = list(self.parameters())
        if (torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing()
                or any(type(p) is not nn.Parameter or p.is_inference() for p in parameters)):
            return method(self, *args)
        now = tuple((p.data_ptr(), p._version, p.dtype) for p in parameters)
        if self._kept[0] != now:
            self._kept = (now, {})
        kept = self._kept[1]
        if name not in kept:
            result = method(self, *args)
            if not _is_plain(result):  # stand-ins of a tracer must not outlive it
                return result
            kept[name] = result
        return kept[name]

    return keeping


def _is_plain(result) -> bool:
    if isinstance(result, tuple | list):
        return all(map(_is_plain, result))
    return type(result) in (Tensor, nn.Parameter) or not isinstance(result, Tensor)
