"""Checks of arguments that many layers take. Errors name the value, the rule and what to do."""

from collections.abc import Collection

from ..ops import PRECISIONS


def check_choice(name: str, value: object, choices: Collection) -> None:
    if value not in choices:
        raise ValueError(f'{name}={value!r} is unknown: choose one of {", ".join(map(repr, choices))}')


def check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f'{name}={value!r} is not a positive integer')


def check_kernel_sizes(kernel_sizes: Collection[int]) -> None:
    if not kernel_sizes or any(k < 1 or k % 2 == 0 for k in kernel_sizes):
        raise ValueError(
            f'kernel_sizes={kernel_sizes} must be odd numbers of at least 1: an even kernel has no '
            'centre, so the branch would not keep the size of the feature map'
        )


def check_contraction(contraction: float) -> None:
    if isinstance(contraction, str) or not 0 < contraction < 1:
        raise ValueError(
            f'contraction={contraction!r} is outside (0, 1): an inverse is only guaranteed if the Lipschitz constant '
            'of the branch is below 1; the default is 0.9'
        )


def check_sharpness(sharpness: float | str) -> None:
    if sharpness in ('learned', 'log_n'):
        return
    if isinstance(sharpness, str) or not 0 < sharpness < float('inf'):
        raise ValueError(
            f"sharpness={sharpness!r} must be a positive number such as 2.0, 'learned' or 'log_n': it bounds the "
            'content logits'
        )


def check_precision(precision: str) -> None:
    check_choice('precision', precision, PRECISIONS)


def check_takes(name: str, value: object, setting: str, where: str) -> None:
    """Raises ValueError if an argument is given that has no effect.

    Args:
        name: name of the argument.
        value: its value, or None if it is not given.
        setting: the present setting, with which the argument has no effect.
        where: the setting with which it has an effect.
    """
    if value is not None:
        raise ValueError(f'{name}={value!r} has no effect with {setting}: it belongs to {where}; leave it out')
