"""Label maps painted over images, with a legend of the classes."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..wording import counted

ROW, SWATCH, GAP = 20, 12, 8  # pixels: height of a row of the legend, side of its coloured square, space around it
FONT_SIZE = 12
SCALED_FROM = 720  # height of an image above which the legend grows with it


def class_colours(num_classes: int, palette: Sequence[Sequence[int]] | None = None) -> np.ndarray:
    """Colours of the classes, (K, 3) uint8, RGB.

    Args:
        num_classes: K.
        palette: Colours of the data set; None spreads hues by the golden ratio, alternately light and dark.

    Raises:
        ValueError: The palette does not have one colour for each class.
    """
    if palette is not None:
        if len(palette) != num_classes:
            raise ValueError(
                f'the palette has {counted(len(palette), "colour")} for {counted(num_classes, "class")}: give one a '
                'class, or none'
            )
        return np.array(palette, np.uint8)
    k = np.arange(num_classes)
    hsv = np.stack([k * 0.618034 * 180 % 180, np.full(num_classes, 170), np.where(k % 2, 150, 230)], 1)
    return cv2.cvtColor(hsv.astype(np.uint8)[None], cv2.COLOR_HSV2RGB)[0]


def paint(image_HW3: np.ndarray, labels_HW: np.ndarray, colours_K3: np.ndarray, opacity: float = 0.5) -> np.ndarray:
    """The image with the colour of its class painted over each pixel; labels that are not a class are not painted.

    Args:
        image_HW3: uint8, RGB.
        labels_HW: Classes of the pixels.
        colours_K3: Colours from :func:`class_colours`.
        opacity: 0 shows the image, 1 the colours.

    Raises:
        ValueError: The sizes differ, or the opacity is not between 0 and 1.
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f'opacity is {opacity}, but it must lie between 0 (the image alone) and 1 (the classes alone)')
    if image_HW3.shape[:2] != labels_HW.shape:
        raise ValueError(
            f'the label map is {labels_HW.shape} and the image {image_HW3.shape[:2]}: both must have the '
            'same height and width'
        )
    known = (labels_HW >= 0) & (labels_HW < len(colours_K3))
    colours = colours_K3[np.where(known, labels_HW, 0)]
    mixed = np.rint((1 - opacity) * image_HW3 + opacity * colours).astype(np.uint8)
    return np.where(known[..., None], mixed, image_HW3)


def legend(names: Sequence[str], colours_K3: np.ndarray, height: int) -> np.ndarray:
    """A panel with the colour and the name of each class, in as many columns as needed for its height.

    Args:
        names: Names of the K classes.
        colours_K3: Their colours, RGB.
        height: Height of the picture beside which it is put; the panel is at least one row high.

    Returns:
        uint8 of shape (height or more, width, 3), RGB, dark on white.
    """
    scale = max(1.0, height / SCALED_FROM)
    row, swatch, gap = (round(scale * size) for size in (ROW, SWATCH, GAP))
    font = ImageFont.load_default(size=scale * FONT_SIZE)
    height = max(height, row)
    rows = height // row
    columns = [range(first, min(first + rows, len(names))) for first in range(0, len(names), rows)]
    text_widths = [max(int(np.ceil(font.getlength(names[k]))) for k in column) for column in columns]
    panel = Image.new('RGB', (sum(2 * gap + swatch + width for width in text_widths) + gap, height), 'white')
    draw, left = ImageDraw.Draw(panel), gap
    for column, width in zip(columns, text_widths, strict=True):
        for place, k in enumerate(column):
            middle = place * row + row // 2
            box = left, middle - swatch // 2, left + swatch, middle + swatch // 2
            draw.rectangle(box, fill=tuple(map(int, colours_K3[k])), outline='black')
            draw.text((left + swatch + gap // 2, middle), names[k], fill='black', font=font, anchor='lm')
        left += 2 * gap + swatch + width
    return np.asarray(panel)


def beside(*pictures_HW3: np.ndarray) -> np.ndarray:
    """Pictures side by side, with white below the lower ones."""
    height = max(len(picture) for picture in pictures_HW3)
    return np.concatenate(
        [
            np.pad(picture, ((0, height - len(picture)), (0, 0), (0, 0)), constant_values=255)
            for picture in pictures_HW3
        ],
        1,
    )


def with_legend(
    picture_HW3: np.ndarray, names: Sequence[str], colours_K3: np.ndarray, shown: Sequence[int]
) -> np.ndarray:
    """The picture with the legend of the classes ``shown`` to its right."""
    panel = legend([names[k] for k in shown], colours_K3[list(shown)], len(picture_HW3)) if len(shown) else None
    return picture_HW3 if panel is None else beside(picture_HW3, panel)


def confidence_map(scores_CHW: np.ndarray, labels_HW: np.ndarray | None = None) -> np.ndarray:
    """Probability of the predicted class, (H, W) in [0, 1].

    Args:
        scores_CHW: Logits of the classes; if there is a single channel, MMSegmentation's probability of class 1.
        labels_HW: The predicted classes. With a single channel these need not be the most probable ones, because the
            head has a threshold. None takes the most probable ones.
    """
    if len(scores_CHW) == 1:
        foreground = scores_CHW[0] > 0.5 if labels_HW is None else labels_HW == 1
        return np.where(foreground, scores_CHW[0], 1 - scores_CHW[0])
    return 1 / np.exp(scores_CHW - scores_CHW.max(0)).sum(0)
