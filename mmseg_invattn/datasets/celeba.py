"""CelebA, aligned and cropped faces."""

import os.path as osp

import cv2
import numpy as np
from mmseg.registry import DATASETS

from .generative import DequantisedImages
from .image_files import decode

PARTITION = 'list_eval_partition.txt'
PARTITION_MD5 = 'd32c9cbf5e040fd4025c592c306e6668'
NUMBERS = {'train': '0', 'test': '2'}  # of the splits in that file; 1 is validation
HEIGHT, WIDTH = 218, 178


@DATASETS.register_module()
class CelebADataset(DequantisedImages):
    """CelebA: 162 770 training and 19 962 test images of 218 x 178 pixels; they have no class here (label 0).

    Layout: ``img_align_celeba/000001.jpg, ...`` and ``list_eval_partition.txt``. The constructor checks that every
    listed image exists. An image is read, and its size is checked, when it is asked for.

    Args:
        size: side in pixels after a central crop of 178 x 178 and a resize by area; None keeps 218 x 178.
        data_root: this and the other arguments are those of
            :class:`~mmseg_invattn.datasets.generative.DequantisedImages`; only the partition file has a published
            checksum.
    """

    METAINFO = {'classes': ('face',)}
    SOURCE = (
        'CelebA comes from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html: data_root holds '
        f'list_eval_partition.txt and img_align_celeba/ with the JPEG files of {WIDTH} x {HEIGHT} pixels.'
    )

    def __init__(
        self,
        data_root: str,
        split: str = 'train',
        num_images: int | None = None,
        verify: bool | str = True,
        size: int | None = 32,
        crop: int | None = None,
        flip: float = 0.0,
        shift: int = 0,
        noise_seed: int = 0,
    ):
        if size is not None and size < 1:
            raise ValueError(f'size={size} is not a positive number of pixels; None keeps {HEIGHT} x {WIDTH}')
        self.resized = size
        super().__init__(data_root, split, num_images, verify, crop, flip, shift, noise_seed)

    def load(self) -> int:
        partition, self.folder = self.path(PARTITION), self.path('img_align_celeba')
        self.check_sum(partition, PARTITION_MD5)
        with open(partition, encoding='utf-8') as file:
            rows = [line.split() for line in file if line.strip()]
        if any(len(row) != 2 or row[1] not in ('0', '1', '2') for row in rows):
            bad = next(row for row in rows if len(row) != 2 or row[1] not in ('0', '1', '2'))
            raise ValueError(
                f'{partition} has the line {" ".join(bad)!r}, but each line must be a file name and 0, 1 or 2. '
                f'{self.SOURCE}'
            )
        self.names = [name for name, number in rows if number == NUMBERS[self.split]]
        if not self.names:
            raise ValueError(f'{partition} lists no image of the {self.split} split. {self.SOURCE}')
        missing = [name for name in self.names if not osp.isfile(osp.join(self.folder, name))]
        if missing:
            raise FileNotFoundError(
                f'{len(missing)} of the {len(self.names)} {self.split} images of {partition} are '
                f'not in {self.folder}, the first is {missing[0]}. {self.SOURCE}'
            )
        return len(self.names)

    def read(self, index: int) -> tuple[np.ndarray, int]:
        path = osp.join(self.folder, self.names[index])
        with open(path, 'rb') as file:
            image = decode(file.read(), path, 'color', 'cv2')
        if image.shape != (HEIGHT, WIDTH, 3):
            raise ValueError(
                f'{path} has {image.shape[0]} x {image.shape[1]} pixels; an aligned face has {HEIGHT} x '
                f'{WIDTH}. {self.SOURCE}'
            )
        if self.resized is not None:
            top = (HEIGHT - WIDTH) // 2
            image = cv2.resize(image[top : top + WIDTH], (self.resized, self.resized), interpolation=cv2.INTER_AREA)
        return image[..., ::-1].transpose(2, 0, 1), 0
