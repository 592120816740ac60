"""What a block is asked to be: checked once, read by every form."""
from collections.abc import Sequence
from dataclasses import dataclass

from .modes import MODES, Mode

NEIGHBOURHOODS = ('full', 'criss_cross', 'window')
POSITIONS = (None, 'learned', 'quadratic')


@dataclass(frozen=True)
class AttentionSpec:
    """Arguments of :class:`~mmseg_invattn.layers.InvNonLocal2d`, which says what they mean.

    Raises:
        ValueError: an argument breaks its rule.
    """
    channels: int
    reduction: int = 2
    mode: str = 'embedded_gaussian'
    contraction: float = 0.9
    sharpness: float | str = 2.0
    num_heads: int = 1
    heads: str = 'grouped'
    bias: bool = True
    position: str | None = None
    position_size: int = 32
    key_pooling: int | Sequence[int] | None = None
    neighbourhood: str = 'full'
    window_size: int = 8
    window_shift: int = 0
    gamma: str = 'conv'

    def __post_init__(self) -> None:
        check_choice('mode', self.mode, MODES)
        check_choice('heads', self.heads, ('grouped', 'shared'))
        check_choice('gamma', self.gamma, ('conv', 'scalar'))
        check_choice('position', self.position, POSITIONS)
        check_choice('neighbourhood', self.neighbourhood, NEIGHBOURHOODS)
        check_contraction(self.contraction)
        check_sharpness(self.sharpness)
        for name, value in (('in_channels', self.channels), ('reduction', self.reduction),
                            ('num_heads', self.num_heads), ('position_size', self.position_size),
                            ('window_size', self.window_size)):
            check_count(name, value)
        if self.channels % (self.num_heads * self.reduction):
            raise ValueError(f'in_channels={self.channels} is not a multiple of num_heads * reduction = '
                             f'{self.num_heads} * {self.reduction}: choose heads and a reduction that divide the '
                             'channels')
        if not 0 <= self.window_shift < self.window_size:
            raise ValueError(f'window_shift={self.window_shift} is outside [0, window_size={self.window_size}): the '
                             'windows repeat beyond it; half the window is usual')
        self._check_pooling()

    def _check_pooling(self) -> None:
        if self.key_pooling is None:
            return
        strided = isinstance(self.key_pooling, int)
        sizes = (self.key_pooling, ) if strided else tuple(self.key_pooling)
        if not sizes or not all(isinstance(size, int) and size >= 1 for size in sizes):
            raise ValueError(f'key_pooling={self.key_pooling!r} is neither a stride nor pyramid bins: give a positive '
                             'integer such as 4, or a list of them such as (1, 3, 6, 8)')
        if self.neighbourhood != 'full':
            raise ValueError(f'key_pooling={self.key_pooling!r} pools the keys of the whole map, and '
                             f'neighbourhood={self.neighbourhood!r} attends to a part of it: give one of the two')
        # Lists come from configs; the kernels take a tuple.
        object.__setattr__(self, 'key_pooling', sizes[0] if strided else sizes)

    @property
    def mode_class(self) -> type[Mode]:
        return MODES[self.mode]


def check_choice(name: str, value: object, choices) -> None:
    if value not in choices:
        raise ValueError(f'{name}={value!r} is unknown: choose one of {", ".join(map(repr, choices))}')


def check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f'{name}={value!r} is not a positive integer')


def check_contraction(contraction: float) -> None:
    if not 0 < contraction < 1:
        raise ValueError(f'contraction={contraction} is outside (0, 1): the inverse exists for a branch whose '
                         'Lipschitz constant is below 1; the default is 0.9')


def check_sharpness(sharpness: float | str) -> None:
    if sharpness in ('learned', 'log_n'):
        return
    if isinstance(sharpness, str) or not 0 < sharpness < float('inf'):
        raise ValueError(f'sharpness={sharpness!r} is not a positive number, \'learned\' or \'log_n\': it bounds the '
                         'content logits; the default is 2.0')
