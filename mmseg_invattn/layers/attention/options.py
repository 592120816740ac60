"""The options that the attention of every form takes, with their defaults and checks."""

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
        reduction: channels of a head divided by the size of its queries, keys and values.
        num_heads: number of heads; the channels must be a multiple of ``num_heads * reduction``.
        bias: whether the projections and the output have biases.
        position: logits that depend only on the positions of key and query and do not weaken the certificate: None,
            ``'learned'`` (tables for row and column offsets, clipped beyond ``position_size``) or ``'quadratic'`` (a
            centre and a width per head).
        position_size: offsets below this have their own entry in the learned tables; 32 by default.
        key_pooling: attend to means over parts of the map, in O(N M): None, a stride, or pyramid bins (1, 3, 6, 8).
    """

    mode: str = 'embedded_gaussian'
    reduction: int = 2
    num_heads: int = 1
    bias: bool = True
    position: str | None = None
    position_size: int | None = None
    key_pooling: int | Sequence[int] | None = None

    neighbourhood = 'full'  # a class attribute: not an option of this class
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
                    'positive integer such as 4, or a list of positive integers such as (1, 3, 6, 8)'
                )
            # configs give lists; the kernels need a tuple
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
        """Raises ValueError if the channels cannot be split into heads."""
        check_count('in_channels', channels)
        if channels % (self.num_heads * self.reduction):
            raise ValueError(
                f'in_channels={channels} is not a multiple of num_heads * reduction = '
                f'{self.num_heads} * {self.reduction}: choose num_heads and reduction so that their product divides '
                'the channels'
            )

    def check_halves(self, channels: int) -> None:
        """Raises ValueError if the channels cannot be split into two halves and each half into heads."""
        self.check_channels(channels)
        if channels % (2 * self.num_heads):
            raise ValueError(
                f'in_channels={channels} is not a multiple of 2 * num_heads = {2 * self.num_heads}: this '
                'form splits the channels into halves and each half into heads; choose other channels or another '
                'num_heads'
            )

    def fitted(self, channels: int) -> 'AttentionOptions':
        """The same options for another number of channels.

        A reduction that does not divide it is lowered to the next one that does; every head keeps at least 1 channel.
        """
        reduction = min(self.reduction, channels // self.num_heads)
        while channels % (self.num_heads * reduction):
            reduction -= 1
        return replace(self, reduction=reduction)

    def check_softmax(self) -> None:
        """Raises ValueError for position logits with a mode that is not a softmax."""
        if self.position is not None and not self.mode_class.softmax:
            raise ValueError(
                f'position={self.position!r} is added to the logits of a softmax, but mode={self.mode!r} is not a '
                "softmax in this form: choose mode='gaussian', 'embedded_gaussian' or 'l2', or one of the forms "
                'that allow a position in every mode: certified, conditional or coupling'
            )


@dataclass(frozen=True, kw_only=True)
class LocalAttentionOptions(AttentionOptions):
    """Attention over the whole map or a part of it.

    Attributes:
        neighbourhood: ``'full'``, ``'criss_cross'`` (row and column of the pixel) or ``'window'``.
        window_size: pixels along a side of a window; 8 by default.
        window_shift: pixels by which the windows are shifted, less than ``window_size``; 0 by default. With a shift the
            first window of a row or column has only ``window_shift`` pixels.
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
                    f'window_shift={shift} must be at least 0 and less than window_size={size}; half of window_size is '
                    'usual'
                )
        else:
            for name in ('window_size', 'window_shift'):
                check_takes(
                    name, getattr(self, name), f'neighbourhood={self.neighbourhood!r}', "neighbourhood='window'"
                )
        if self.key_pooling is not None and self.neighbourhood != 'full':
            raise ValueError(
                f'key_pooling={self.key_pooling!r} pools the keys of the whole map, but '
                f'neighbourhood={self.neighbourhood!r} attends only to a part of it: give one of the two'
            )


Options = TypeVar('Options', bound=AttentionOptions)


def read_options(layer: type, kind: type[Options], given: Mapping[str, Any]) -> Options:
    """Builds the options of a form.

    Args:
        layer: class of the form; its signature names its other arguments.
        kind: class of the options that the form takes.
        given: the options that were given, by name.

    Raises:
        TypeError: an argument that the form does not take. The message lists the arguments that it takes.
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
