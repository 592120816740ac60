"""Turns any loaded image into a picture that can be shown, whatever its channels and bits."""

from __future__ import annotations

import numpy as np

GREY_LEVELS = (0.0, 255.0)


def value_range(image: np.ndarray) -> tuple[float, float]:
    """The values of an image that its picture shows as black and as white.

    These are 0 and 255 if all values are grey levels, and otherwise the smallest and the largest value.
    """
    if image.dtype == np.uint8:
        return GREY_LEVELS
    finite = image[np.isfinite(image)].astype(np.float64)
    if not finite.size:
        return GREY_LEVELS
    low, high = float(finite.min()), float(finite.max())
    levels = np.abs(finite - np.rint(finite)).max() < 0.01 and low > -0.5 and high < 255.5
    return GREY_LEVELS if levels and (high > 1 or low == high) else (low, max(high, low + 1e-12))


def to_picture(image: np.ndarray, shown: tuple[float, float] | None = None) -> np.ndarray:
    """The picture of a loaded image, uint8 RGB (H, W, 3).

    Args:
        image: (H, W) or (H, W, C) of any type. With one or two channels the first is shown in grey; with more, the
            first three are shown, which must be blue, green and red.
        shown: result of :func:`value_range`; None takes that of this image.
    """
    low, high = shown or value_range(image)
    if image.ndim == 2:
        image = image[..., None]
    colours = image[..., 2::-1] if image.shape[2] >= 3 else np.repeat(image[..., :1], 3, 2)
    if colours.dtype == np.uint8 and (low, high) == GREY_LEVELS:
        return np.ascontiguousarray(colours)
    scaled = (np.nan_to_num(colours.astype(np.float64), nan=low, posinf=high, neginf=low) - low) * (255 / (high - low))
    return np.rint(scaled).clip(0, 255).astype(np.uint8)
