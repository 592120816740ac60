"""The invertible parts of a model."""

from collections.abc import Iterator

from torch import nn

from ..layers import InvertibleModule
from .backbones.invertible_backbone import InvertibleBackbone


def invertible_parts(module: nn.Module, name: str = '') -> Iterator[tuple[str, nn.Module]]:
    """Yields name and module of the outermost invertible modules: backbones, and attention in heads and plugins."""
    if isinstance(module, InvertibleBackbone | InvertibleModule):
        yield name, module
    else:
        for child, part in module.named_children():
            yield from invertible_parts(part, f'{name}.{child}'.lstrip('.'))
