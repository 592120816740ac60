"""Checks of arguments that many layers take. Errors name the value, the rule and a way out."""

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
            f'kernel_sizes={kernel_sizes} are not odd numbers of at least 1: an even kernel has no '
            'centre, so the branch would not keep the size of the feature map'
        )


def check_contraction(contraction: float) -> None:
    if isinstance(contraction, str) or not 0 < contraction < 1:
        raise ValueError(
            f'contraction={contraction!r} is outside (0, 1): the inverse exists for a branch whose '
            'Lipschitz constant is below 1; the default is 0.9'
        )


def check_sharpness(sharpness: float | str) -> None:
    if sharpness in ('learned', 'log_n'):
        return
    if isinstance(sharpness, str) or not 0 < sharpness < float('inf'):
        raise ValueError(
            f"sharpness={sharpness!r} is not a positive number, 'learned' or 'log_n': it bounds the "
            'content logits; the default is 2.0'
        )


def check_precision(precision: str) -> None:
    check_choice('precision', precision, PRECISIONS)


def check_takes(name: str, value: object, setting: str, where: str) -> None:
    """Refuses an argument that is given where it has no effect.

    Args:
        name: of the argument.
        value: None where it is not given.
        setting: what it depends on, as it is.
        where: the setting in which it counts.
    """
    if value is not None:
        raise ValueError(f'{name}={value!r} has no effect with {setting}: it belongs to {where}; leave it out')
