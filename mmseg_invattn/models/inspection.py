"""What is inside a model: its invertible parts, and what modules see while it runs."""
from collections.abc import Callable, Iterable, Iterator

from torch import Tensor, nn

from .attention_slot import has_inverse
from .backbones.invertible_backbone import InvertibleBackbone


def invertible_parts(module: nn.Module, name: str = '') -> Iterator[tuple[str, nn.Module]]:
    """The outermost modules with an inverse: backbones, and attention in heads, stages and plugins."""
    if isinstance(module, InvertibleBackbone) or has_inverse(module):
        yield name, module
    else:
        for child, part in module.named_children():
            yield from invertible_parts(part, f'{name}.{child}'.lstrip('.'))


def recorded_inputs(modules: Iterable[tuple[str, nn.Module]],
                    run: Callable[[], object]) -> list[tuple[str, nn.Module, Tensor]]:
    """Name, module and first argument of every call of the modules during ``run``, in the order of the calls."""
    seen, hooks = [], []
    for name, module in modules:
        hooks.append(module.register_forward_pre_hook(
            lambda module, args, name=name: seen.append((name, module, args[0]))))
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return seen
