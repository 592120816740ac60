"""The Street View House Numbers, cropped digits."""

from importlib.util import find_spec

import numpy as np
from mmseg.registry import DATASETS

from .generative import DequantisedImages

FILES = {
    'train': ('train_32x32.mat', 'e26dedcc434d2e4c54c9b2d4a06d8373'),
    'test': ('test_32x32.mat', 'eb5a983be6a315427106f1b164d9cef3'),
}


@DATASETS.register_module()
class SVHNDataset(DequantisedImages):
    """SVHN, format 2: 73 257 training and 26 032 test images of 32 x 32 pixels, digits 0 to 9.

    Layout: ``train_32x32.mat`` and ``test_32x32.mat``, as they are distributed. The digit 0 is class 10 in the files,
    and class 0 here. Arguments are those of :class:`~mmseg_invattn.datasets.generative.DequantisedImages`.

    Raises:
        ImportError: scipy, which reads the files, is not installed.
    """

    METAINFO = {'classes': tuple('0123456789')}
    SOURCE = (
        'SVHN comes from http://ufldl.stanford.edu/housenumbers: data_root holds train_32x32.mat and '
        'test_32x32.mat of its format 2 (cropped digits).'
    )

    def load(self) -> int:
        if find_spec('scipy') is None:
            raise ImportError('SVHN is distributed as .mat files, and scipy reads them: pip install scipy')
        from scipy.io import loadmat

        name, md5 = FILES[self.split]
        path = self.path(name)
        self.check_sum(path, md5)
        try:
            content = loadmat(path, variable_names=['X', 'y'])
            images, labels = content['X'], content['y'].ravel()
        except Exception as error:  # whatever scipy raises for a broken file
            raise ValueError(
                f'{path} is not a .mat file with X and y ({type(error).__name__}: {error}). {self.SOURCE}'
            ) from error
        if not (
            images.ndim == 4
            and images.shape[:3] == (32, 32, 3)
            and images.dtype == np.uint8
            and labels.shape == images.shape[3:]
            and np.isin(labels, np.arange(1, 11)).all()
        ):
            raise ValueError(
                f'{path}: X must have the shape (32, 32, 3, n) and type uint8, and y must hold n classes from 1 to 10. '
                f'In this file X has the shape {images.shape} and type {images.dtype}, and y the shape '
                f'{labels.shape}. {self.SOURCE}'
            )
        self.images, self.labels = images.transpose(3, 2, 0, 1), labels.astype(int) % 10
        return len(self.images)

    def read(self, index: int) -> tuple[np.ndarray, int]:
        return self.images[index], int(self.labels[index])
