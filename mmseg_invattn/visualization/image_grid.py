"""Puts images side by side into one picture."""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..wording import counted
from .figures import LEAST_WIDTH

FONT_SIZE, MARGIN = 16, 8  # pixels, of the labels and around them


def image_grid(images_B3HW: Tensor, columns: int, gap: int = 2) -> np.ndarray:
    """The images row by row on white, (height, width, 3) uint8 RGB.

    Args:
        images_B3HW: values in [-0.5, 0.5]. Other values are clipped; those that are not finite become white.
        columns: number of images in a row.
        gap: number of pixels between the images.
    """
    if columns < 1 or not len(images_B3HW):
        raise ValueError(
            f'a grid of {counted(len(images_B3HW), "image")} in {counted(columns, "column")} is empty: give at '
            'least one each'
        )
    images = (images_B3HW.detach().cpu().float() + 0.5).nan_to_num(1, 1, 1).clamp(0, 1)
    rows = -(-len(images) // columns)
    blank = images.new_ones(rows * columns - len(images), *images.shape[1:])
    images = F.pad(torch.cat([images, blank]), (0, gap, 0, gap), value=1.0)
    picture = images.unflatten(0, (rows, columns)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    return (picture[: -gap or None, : -gap or None] * 255).round().byte().numpy()


def large(picture_HW3: np.ndarray, labels: Sequence[str] = ()) -> np.ndarray:
    """The picture enlarged by a whole factor to at least 800 pixels of width, with labels to the left of its rows.

    Args:
        picture_HW3: a picture from :func:`image_grid`.
        labels: a label for each row of images, drawn black on white; empty for no column of labels.
    """
    factor = max(1, math.ceil(LEAST_WIDTH / picture_HW3.shape[1]))
    picture_HW3 = picture_HW3.repeat(factor, 0).repeat(factor, 1)
    if not labels:
        return picture_HW3
    font = ImageFont.load_default(size=FONT_SIZE)
    height = len(picture_HW3)
    width = max(math.ceil(font.getlength(label)) for label in labels) + 2 * MARGIN
    column = Image.new('RGB', (width, height), 'white')
    for row, label in enumerate(labels):
        middle = round((row + 0.5) * height / len(labels))
        ImageDraw.Draw(column).text((width - MARGIN, middle), label, fill='black', font=font, anchor='rm')
    return np.concatenate([np.asarray(column), picture_HW3], 1)
