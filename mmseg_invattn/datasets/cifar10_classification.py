"""CIFAR-10 as images and classes, with the augmentation that is usual for it."""

import torch
import torch.nn.functional as F
from mmseg.registry import DATASETS
from torch import Tensor

from ..wording import counted
from .cifar10 import Cifar10Dataset
from .samplers import SampleIndex


@DATASETS.register_module()
class Cifar10Classification(Cifar10Dataset):
    """An item is ``dict(inputs=image (3, 32, 32) uint8 RGB, data_samples=class)``; let the loader stack them
    (``collate_fn=dict(type='default_collate')``).

    An item is augmented by the seed that ``ResumableInfiniteSampler`` gives it, a new one at every visit. Items without
    a seed are not augmented.

    Args:
        data_root: this, ``split``, ``num_images``, ``verify`` and ``flip`` are those of :class:`Cifar10Dataset`.
        pad: width of the border of zeros from which a random crop of the image's size is taken; 4 is usual, 0 turns
            the crop off.
    """

    def __init__(
        self,
        data_root: str,
        split: str = 'train',
        num_images: int | None = None,
        verify: bool | str = True,
        pad: int = 0,
        flip: float = 0.0,
    ):
        super().__init__(data_root, split, num_images, verify, flip=flip)
        if not isinstance(pad, int) or pad < 0:
            raise ValueError(f'pad={pad!r} is not a number of pixels: give an integer from 0')
        self.pad = pad

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        if not 0 <= index < self.count:
            raise IndexError(f'index {index} of a data set of {counted(self.count, "image")}')
        image, label = self.read(int(index))
        image = torch.from_numpy(image)
        if isinstance(index, SampleIndex):
            generator = torch.Generator().manual_seed(index.seed)
            image = F.pad(image, (self.pad,) * 4)
            top, left = torch.randint(2 * self.pad + 1, (2,), generator=generator).tolist()
            image = image[:, top : image.shape[1] - 2 * self.pad + top, left : image.shape[2] - 2 * self.pad + left]
            if torch.rand((), generator=generator) < self.flip:
                image = image.flip(-1)
        return dict(inputs=image.contiguous(), data_samples=label)
