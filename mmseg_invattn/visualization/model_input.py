"""An image file as a segmentor sees it."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from mmengine.dataset import Compose
from torch import Tensor, nn

from ..engine.inference import preprocess

LOADING = ('LoadImageFromFile', 'StrictLoadImageFromFile', 'LoadAnnotations', 'StrictLoadAnnotations')


def read_image(model: nn.Module, file: str | Path, shape: Sequence[int] | None = None) -> tuple[np.ndarray, Tensor]:
    """The test pipeline of the model's config, and its preprocessor, applied to an image.

    Args:
        model: as :func:`mmseg_invattn.engine.inference.init_model` returns it.
        file: the image.
        shape: (H, W) to bring it to, in place of the pipeline's own resizing.

    Returns:
        The picture, padded as the model pads it, uint8 RGB (H, W, 3), and the preprocessed image (1, 3, H, W).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: OpenCV cannot read it.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f'{file}: there is no such image')
    pixels = cv2.imread(str(file))
    if pixels is None:
        raise ValueError(f'{file} cannot be read as an image: give a file that OpenCV can read, such as PNG or JPEG')
    steps = [step for step in model.cfg.test_pipeline if step['type'] not in LOADING]
    if shape is not None:
        pixels = cv2.resize(pixels, (shape[1], shape[0]))
        steps = [step for step in steps if 'Resize' not in step['type']]
    size = pixels.shape[:2]
    sample = Compose(steps)(dict(img=pixels, img_path=str(file), img_shape=size, ori_shape=size))
    image = preprocess(model, sample['inputs'], [sample['data_samples']])
    picture = np.zeros((*image.shape[2:], 3), np.uint8)
    height, width = sample['inputs'].shape[1:]  # padding is at the bottom and on the right
    picture[:height, :width] = sample['inputs'].numpy()[::-1].transpose(1, 2, 0)
    return picture, image
