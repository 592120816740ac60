"""Images side by side as one picture."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..wording import counted


def image_grid(images_B3HW: Tensor, columns: int, gap: int = 2) -> np.ndarray:
    """Row by row on white, (height, width, 3) uint8 RGB.

    Args:
        images_B3HW: values in [-0.5, 0.5]; others are clipped, what is not finite becomes white.
        columns: images in a row.
        gap: pixels between them.
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
