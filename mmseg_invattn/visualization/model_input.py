"""Reads an image file as a segmentor sees it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from ..datasets.pictures import to_picture
from ..engine.inference import check_channels, preprocess
from ..engine.tested_pipeline import TestedPipeline


def read_image(model: nn.Module, file: str | Path, shape: Sequence[int] | None = None) -> tuple[np.ndarray, Tensor]:
    """The pipeline of the data set that the model's config tests, and its preprocessor, applied to an image.

    Args:
        model: as :func:`mmseg_invattn.engine.inference.init_model` returns it.
        file: the image.
        shape: (H, W) to which it is resized, instead of the pipeline's own resizing.

    Returns:
        The picture, padded as the model pads it, uint8 RGB (H, W, 3), and the preprocessed image (1, C, H, W).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the pipeline cannot read it.
    """
    inputs, sample, _ = TestedPipeline(model.cfg, shape)(file)
    check_channels(model, inputs, file)
    image = preprocess(model, inputs, [sample])
    picture = np.zeros((*image.shape[2:], 3), np.uint8)
    height, width = inputs.shape[1:]  # padding is at the bottom and on the right
    picture[:height, :width] = to_picture(inputs.numpy().transpose(1, 2, 0))
    return picture, image
