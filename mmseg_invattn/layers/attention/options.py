"""What all attention takes, whatever its form: declared, defaulted and checked once."""

import difflib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from ..checks import check_choice, check_count, check_takes
from .modes import MODES, Mode
from .position import POSITIONS

NEIGHBOURHOODS = ('full', 'criss_cross', 'window')


@dataclass(frozen=True, kw_only=True)
class AttentionOptions:
    """Attention over the whole map.

    Attributes:
        mode: how pixels score each other: ``'gaussian'``, ``'embedded_gaussian'``, ``'dot_product'``,
            ``'concatenation'`` or ``'l2'``.
        reduction: channels of a head over the size of its queries, keys and values.
        num_heads: heads; the channels are a multiple of ``num_heads * reduction``.
        bias: biases of the projections and of the output.
        position: logits that depend on where key and query are and cost no certificate: None, ``'learned'`` (tables
            for row and column offsets, clipped beyond ``position_size``) or ``'quadratic'`` (centre and width a head).
        position_size: offsets with an entry of their own in the learned tables; 32 by default.
        key_pooling: attend to means over parts of the map, in O(N M): None, a stride, or pyramid bins (1, 3, 6, 8).
    """

    mode: str = 'embedded_gaussian'
    reduction: int = 2
    num_heads: int = 1
    bias: bool = True
    position: str | None = None
    position_size: int | None = None
    key_pooling: int | Sequence[int] | None = None

    neighbourhood = 'full'  # no option here, so no field
    window_size = window_shift = None

    def __post_init__(self) -> None:
        check_choice('mode', self.mode, MODES)
        check_choice('position', self.position, (None, *POSITIONS))
        for name in ('reduction', 'num_heads'):
            check_count(name, getattr(self, name))
        if self.position == 'learned':
            self._default('position_size', 32)
            check_count('position_size', self.position_size)
        else:
            check_takes('position_size', self.position_size, f'position={self.position!r}', "position='learned'")
        if self.key_pooling is not None:
            sizes = (self.key_pooling,) if isinstance(self.key_pooling, int) else tuple(self.key_pooling)
            if not sizes or not all(isinstance(size, int) and size >= 1 for size in sizes):
                raise ValueError(
                    f'key_pooling={self.key_pooling!r} is neither a stride nor pyramid bins: give a '
                    'positive integer such as 4, or a list of them such as (1, 3, 6, 8)'
                )
            # lists come from configs; the kernels take a tuple
            object.__setattr__(self, 'key_pooling', self.key_pooling if isinstance(self.key_pooling, int) else sizes)

    def _default(self, name: str, value: int) -> None:
        if getattr(self, name) is None:
            object.__setattr__(self, name, value)

    @property
    def windows(self) -> tuple[int, int]:
        """(size, shift) of ``neighbourhood='window'``."""
        assert self.window_size is not None and self.window_shift is not None, self.neighbourhood
        return self.window_size, self.window_shift

    @property
    def mode_class(self) -> type[Mode]:
        return MODES[self.mode]

    def check_channels(self, channels: int) -> None:
        """Refuses channels that do not split into heads."""
        check_count('in_channels', channels)
        if channels % (self.num_heads * self.reduction):
            raise ValueError(
                f'in_channels={channels} is not a multiple of num_heads * reduction = '
                f'{self.num_heads} * {self.reduction}: choose heads and a reduction that divide the '
                'channels'
            )

    def check_halves(self, channels: int) -> None:
        """Refuses channels that do not split into halves made of whole groups."""
        self.check_channels(channels)
        if channels % (2 * self.num_heads):
            raise ValueError(
                f'in_channels={channels} is not a multiple of 2 * num_heads = {2 * self.num_heads}: this '
                'form splits the channels into halves and each half into heads; choose channels or heads '
                'that divide'
            )

    def fitted(self, channels: int) -> 'AttentionOptions':
        """The same for other channels: a reduction that no longer divides them leaves 1 channel a head or more."""
        reduction = min(self.reduction, channels // self.num_heads)
        while channels % (self.num_heads * reduction):
            reduction -= 1
        return replace(self, reduction=reduction)

    def check_softmax(self) -> None:
        """Refuses positions where the form's weights are not a softmax."""
        if self.position is not None and not self.mode_class.softmax:
            raise ValueError(
                f'position={self.position!r} adds to the logits of a softmax, and mode={self.mode!r} has '
                "none in this form: choose mode='gaussian', 'embedded_gaussian' or 'l2', or a form "
                'in which every mode takes it: certified, conditional or coupling'
            )


@dataclass(frozen=True, kw_only=True)
class LocalAttentionOptions(AttentionOptions):
    """Attention over the whole map or a part of it.

    Attributes:
        neighbourhood: ``'full'``, ``'criss_cross'`` (row and column of the pixel) or ``'window'``.
        window_size: pixels along a side of a window; 8 by default.
        window_shift: pixels by which the windows are shifted, below ``window_size``; the first of a row is cut then. 0
            by default.
    """

    neighbourhood: str = 'full'
    window_size: int | None = None
    window_shift: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice('neighbourhood', self.neighbourhood, NEIGHBOURHOODS)
        if self.neighbourhood == 'window':
            self._default('window_size', 8)
            self._default('window_shift', 0)
            check_count('window_size', self.window_size)
            size, shift = self.windows
            if not 0 <= shift < size:
                raise ValueError(
                    f'window_shift={shift} is outside [0, window_size={size}): '
                    'the windows repeat beyond it; half the window is usual'
                )
        else:
            for name in ('window_size', 'window_shift'):
                check_takes(
                    name, getattr(self, name), f'neighbourhood={self.neighbourhood!r}', "neighbourhood='window'"
                )
        if self.key_pooling is not None and self.neighbourhood != 'full':
            raise ValueError(
                f'key_pooling={self.key_pooling!r} pools the keys of the whole map, and '
                f'neighbourhood={self.neighbourhood!r} attends to a part of it: give one of the two'
            )


Options = TypeVar('Options', bound=AttentionOptions)


def read_options(layer: type, kind: type[Options], given: Mapping[str, Any]) -> Options:
    """The options of a form.

    Args:
        layer: its class, whose other arguments its signature names.
        kind: the options that it takes.
        given: what was given.

    Raises:
        TypeError: an argument that the form does not take; names those that it takes.
        ValueError: an argument breaks its rule.
    """
    options = [field.name for field in fields(kind)]
    unknown = [name for name in given if name not in options]
    if unknown:
        own = [
            name
            for name, parameter in inspect.signature(layer).parameters.items()
            if parameter.kind is not parameter.VAR_KEYWORD
        ]
        near = difflib.get_close_matches(unknown[0], own + options, 1, cutoff=0.75)
        raise TypeError(
            f'{layer.__name__} takes no argument {unknown[0]!r}'
            + (f' (did you mean {near[0]!r}?)' if near else '')
            + f': it takes {", ".join(own + options)}'
        )
    return kind(**given)
