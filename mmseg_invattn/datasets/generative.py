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
    type='default_collate')``). The noise of an item depends on its seed alone. ``ResumableInfiniteSampler`` gives an
    item a new seed at every visit; without that sampler the seed follows from ``noise_seed`` and the index, so that the
    noise is the same at every visit.

    Args:
        data_root: folder that holds the files in their original layout.
        split: ``'train'`` or ``'test'``.
        num_images: number of images to use, from the first; None uses all.
        verify: True refuses files that differ from the published ones, ``'warn'`` warns of them and uses them, False
            does not compare. Files with impossible shapes or counts are refused in any case.
        crop: take the central ``crop`` x ``crop`` pixels of each image; None keeps all.
        flip: probability with which an image is mirrored; drawn from its seed.
        shift: largest number of pixels by which an image is moved along either axis; drawn from its seed. Mirrored
            pixels fill the border.
        noise_seed: seed of the items that do not have their own.

    Raises:
        FileNotFoundError: a file is missing; says where the data come from and how to lay them out.
        ValueError: a file has other contents than the published one, or an argument breaks its rule.
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
        """Reads or lists the images of the split, checks them, and returns their number."""

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
        # 8 bits of image and 16 of noise fit into a float32, so that x is exact and stays below the next grey level
        noise = torch.randint(2**16, image.shape, generator=generator) / 2**16
        x = (image + noise) / 256 - 0.5
        return dict(inputs=x, labels=label)

    def path(self, *parts: str) -> str:
        """The path of a file under the root, after a check that it exists."""
        path = osp.join(self.data_root, *parts)
        if not osp.exists(path):
            raise FileNotFoundError(f'{path} does not exist (looked up as {osp.abspath(path)}). {self.SOURCE}')
        return path

    def check_sum(self, path: str, md5: str) -> None:
        """Compares a file with the published one, and acts as ``verify`` says."""
        if self.verify is False:
            return
        with open(path, 'rb') as file:
            found = hashlib.md5(file.read(), usedforsecurity=False).hexdigest()
        if found == md5:
            return
        message = f'{path} has the md5 sum {found}; the published file has {md5}.'
        if self.verify is True:
            raise ValueError(
                f'{message} So it is damaged, or a subset, or another version. {self.SOURCE} Set '
                "verify='warn' or verify=False in the config to use the file as it is."
            )
        print_log(f"{message} It is used all the same, because verify='warn'.", logger='current')


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
