"""Records the inputs of modules inside a model while it runs."""

from collections.abc import Callable, Iterable

from torch import Tensor, nn


def recorded_inputs(
    modules: Iterable[tuple[str, nn.Module]], run: Callable[[], object]
) -> list[tuple[str, nn.Module, Tensor]]:
    """Name, module and first argument of every call of the modules during ``run``, in the order of the calls."""
    seen, hooks = [], []
    for name, module in modules:
        hooks.append(
            module.register_forward_pre_hook(lambda module, args, name=name: seen.append((name, module, args[0])))
        )
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return seen
