"""Checks of arguments that many layers take, and of features and weights. Errors tell the value, rule and remedy."""

from collections.abc import Collection

from torch import Tensor, nn

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


def check_features(x: Tensor, channels: int | None, finite: bool = False) -> None:
    """Raises ValueError unless x is a non-empty feature map with the expected number of channels (None: any)."""
    if x.dim() != 4:
        raise ValueError(
            f'got a tensor of shape {tuple(x.shape)}; the layer takes (B, C, H, W), four dimensions: reshape the '
            'input, or add the batch with x[None]'
        )
    if channels not in (None, x.shape[1]):
        raise ValueError(
            f'got a tensor of shape {tuple(x.shape)}; the layer takes (B, C, H, W) with C = {channels}: build it with '
            f'in_channels={x.shape[1]} or reshape the input'
        )
    if x.numel() == 0:
        raise ValueError(
            f'got an empty feature map of shape {tuple(x.shape)}; batch, height and width must be at '
            'least 1: check the crop size against the stride of the backbone'
        )
    if not x.is_floating_point():
        raise ValueError(f'got a tensor of dtype {x.dtype}; the layer takes floating point features: call .float()')
    if finite and not x.isfinite().all():
        bad = (~x.isfinite()).flatten(1).sum(1)
        raise ValueError(
            f'the input of inverse has values that are not finite (NaN or inf); their number per sample is '
            f'{bad.tolist()}. Only finite features have an inverse: find the layer that produces these values'
        )


def check_finite_weights(layer: nn.Module) -> None:
    """Raises ValueError if a parameter holds NaN or inf, and names it."""
    bad = [name for name, parameter in layer.named_parameters() if not parameter.isfinite().all()]
    if bad:
        raise ValueError(
            f'the parameters {bad} of {type(layer).__name__} have values that are not finite (NaN or inf), so it has '
            'neither an inverse nor a bound: go back to an earlier checkpoint and lower the learning rate'
        )
