"""Small images for reconstruction and density estimation: dequantised, shifted, with their class.

    x = (u8 + U) / 256 - 1/2,    U uniform on [0, 1), in steps of 2^-16:    x lies in [-1/2, 1/2)

A density of x bounds the probability of the 8-bit image from below: ``log2 P(u8) >= E log2 p(x) - 8 dims``.
"""

import hashlib
import os.path as osp
from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor
from torch.utils.data import Dataset

from ..wording import counted
from .samplers import SampleIndex, derive_seed


class DequantisedImages(Dataset):
    """Images (3, H, W) in [-0.5, 0.5) from files as they are distributed.

    An item is ``dict(inputs=image, labels=class)``; let the loader stack them (``collate_fn=dict(
    type='default_collate')``). The noise of an item follows from its seed alone: the one that
    ``ResumableInfiniteSampler`` gives it, new at every visit, or else from ``noise_seed`` and the index, the same at
    every visit.

    Args:
        data_root: folder that holds the files in their original layout.
        split: ``'train'`` or ``'test'``.
        num_images: take the first so many; None takes all.
        verify: True refuses files that differ from the published ones, ``'warn'`` says so and goes on, False does not
            look. Shapes and counts that no such file can have are refused in any case.
        crop: take the central ``crop`` x ``crop`` pixels, of whatever size the images are; None keeps all.
        flip: mirror an image with this probability, drawn with its noise.
        shift: move it by up to so many pixels along both axes, drawn with its noise; mirrored pixels fill the border.
        noise_seed: of the noise of items without a seed of their own.

    Raises:
        FileNotFoundError: a file is missing; says where the data come from and how to lay them out.
        ValueError: a file is not what it should be, or an argument breaks its rule.
    """

    METAINFO: dict = {}
    SOURCE = ''  # where the data come from and how they are laid out, for messages

    def __init__(
        self,
        data_root: str,
        split: str = 'train',
        num_images: int | None = None,
        verify: bool | str = True,
        crop: int | None = None,
        flip: float = 0.0,
        shift: int = 0,
        noise_seed: int = 0,
    ):
        if split not in ('train', 'test'):
            raise ValueError(f"split={split!r} is not one of 'train', 'test'")
        if verify not in (True, False, 'warn'):
            raise ValueError(f"verify={verify!r} is not True, False or 'warn'")
        if not 0 <= flip <= 1:
            raise ValueError(f'flip={flip} is a probability: give a number from 0 to 1')
        if not isinstance(shift, int) or shift < 0:
            raise ValueError(f'shift={shift!r} is not a number of pixels: give an integer from 0')
        self.data_root, self.split, self.verify = data_root, split, verify
        self.crop, self.flip, self.shift, self.noise_seed = crop, flip, shift, noise_seed
        available = self.load()
        if num_images is not None and not 0 < num_images <= available:
            raise ValueError(
                f'num_images={num_images}, but the {split} split of {type(self).__name__} in {data_root} '
                f'has {counted(available, "image")}: choose 1 to {available}, or None for all of them'
            )
        self.count = available if num_images is None else num_images

    @property
    def metainfo(self) -> dict:
        return dict(self.METAINFO)

    @abstractmethod
    def load(self) -> int:
        """Reads, or lists, the split and checks it; returns its number of images."""

    @abstractmethod
    def read(self, index: int) -> tuple[np.ndarray, int]:
        """One image, (3, H, W), uint8 RGB, and its class (0 where there is none)."""

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        if not 0 <= index < self.count:
            raise IndexError(f'index {index} of a data set of {counted(self.count, "image")}')
        image, label = self.read(int(index))
        seed = index.seed if isinstance(index, SampleIndex) else derive_seed(self.noise_seed, int(index))
        generator = torch.Generator().manual_seed(seed)
        if self.shift:
            image = shifted(image, *torch.randint(2 * self.shift + 1, (2,), generator=generator).tolist(), self.shift)
        image = torch.from_numpy(np.ascontiguousarray(image))
        if self.crop is not None:
            image = central(image, self.crop)
        if torch.rand((), generator=generator) < self.flip:
            image = image.flip(-1)
        # 8 bits of image and 16 of noise fit into a float32: x is exact, and no noise reaches the next grey level
        noise = torch.randint(2**16, image.shape, generator=generator) / 2**16
        x = (image + noise) / 256 - 0.5
        return dict(inputs=x, labels=label)

    def path(self, *parts: str) -> str:
        """A file under the root, which must be there."""
        path = osp.join(self.data_root, *parts)
        if not osp.exists(path):
            raise FileNotFoundError(f'{path} does not exist (looked up as {osp.abspath(path)}). {self.SOURCE}')
        return path

    def check_sum(self, path: str, md5: str) -> None:
        """Compares a file with the published one, as ``verify`` asks."""
        if self.verify is False:
            return
        with open(path, 'rb') as file:
            found = hashlib.md5(file.read(), usedforsecurity=False).hexdigest()
        if found == md5:
            return
        message = f'{path} has the md5 sum {found}; the published file has {md5}.'
        if self.verify is True:
            raise ValueError(
                f'{message} It is damaged, or a subset or a copy of another kind. {self.SOURCE} Set '
                "verify='warn' or verify=False in the config to use the file as it is."
            )
        print_log(f"{message} It is used all the same, as verify='warn' asks.", logger='current')


def central(image: Tensor, size: int) -> Tensor:
    """The central size x size pixels of an image (C, H, W)."""
    height, width = image.shape[-2:]
    if not 0 < size <= min(height, width):
        raise ValueError(
            f'crop={size} does not fit into an image of {height} x {width}: choose 1 to {min(height, width)}'
        )
    top, left = (height - size) // 2, (width - size) // 2
    return image[:, top : top + size, left : left + size]


def shifted(image: np.ndarray, top: int, left: int, border: int) -> np.ndarray:
    """The window at (top, left) of an image (C, H, W) with a mirrored border, of the size of the image."""
    wide = np.pad(image, ((0, 0), (border, border), (border, border)), mode='symmetric')
    return wide[:, top : top + image.shape[1], left : left + image.shape[2]]


def read_images(dataset: DequantisedImages, indices: Sequence[int]) -> Tensor:
    """Images of a data set, (len(indices), 3, H, W).

    Raises:
        ValueError: there is no such image.
    """
    wrong = [i for i in indices if not 0 <= i < len(dataset)]
    if wrong:
        raise ValueError(f'there is no image {wrong[0]} in the data set: its images are 0 to {len(dataset) - 1}')
    return torch.stack([dataset[i]['inputs'] for i in indices])
