"""CIFAR-10 in the layout of its Python version."""

import io
import pickle

import numpy as np
from mmseg.registry import DATASETS

from .generative import DequantisedImages

# file -> published md5 sum
TRAIN = {
    'data_batch_1': 'c99cafc152244af753f735de768cd75f',
    'data_batch_2': 'd4bba439e000b95fd0a9bffe97cbabec',
    'data_batch_3': '54ebc095f3ab1f0389bbae665268c751',
    'data_batch_4': '634d18415352ddfa80567beed471001a',
    'data_batch_5': '482c414d41f54cd18b22e5b47cb7c3cb',
}
TEST = {'test_batch': '40351d587109b95175f43aff81a1287e'}

# The only names that unpickling a batch needs; NumPy 2 has the first function under another name.
_ALLOWED = {
    ('numpy.core.multiarray', '_reconstruct'): np.empty(0).__reduce__()[0],
    ('numpy._core.multiarray', '_reconstruct'): np.empty(0).__reduce__()[0],
    ('numpy', 'ndarray'): np.ndarray,
    ('numpy', 'dtype'): np.dtype,
}


class ArrayUnpickler(pickle.Unpickler):
    """Unpickles NumPy arrays and plain values, and refuses every other name before any of its code runs."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f'the file asks for {module}.{name}; a CIFAR-10 batch needs NumPy arrays only')
        return _ALLOWED[module, name]


def read_batch(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 3, 32, 32) uint8 and labels (n,) of one batch file.

    Raises:
        ValueError: the file is no such batch, or asks for code.
    """
    with open(path, 'rb') as file:
        data = file.read()
    try:
        batch = ArrayUnpickler(io.BytesIO(data), encoding='latin1').load()
        images, labels = batch['data'], np.asarray(batch['labels'])
    except Exception as error:  # a broken pickle raises almost anything
        raise ValueError(
            f'{path} is not a CIFAR-10 batch ({type(error).__name__}: {error}). {Cifar10Dataset.SOURCE}'
        ) from error
    if not (
        isinstance(images, np.ndarray)
        and images.dtype == np.uint8
        and images.ndim == 2
        and images.shape[1] == 3072
        and labels.shape == images.shape[:1]
        and np.isin(labels, np.arange(10)).all()
    ):
        raise ValueError(
            f'{path}: the data of a batch are (n, 3072) numbers of type uint8 with n labels from 0 to 9. '
            f'{Cifar10Dataset.SOURCE}'
        )
    return images.reshape(-1, 3, 32, 32), labels


@DATASETS.register_module()
class Cifar10Dataset(DequantisedImages):
    """CIFAR-10: 50 000 training and 10 000 test images of 32 x 32 pixels, 10 classes.

    Layout: ``cifar-10-batches-py/{data_batch_1, ..., data_batch_5, test_batch}``, the pickles as they are distributed.
    Nothing in them is executed. Arguments are those of :class:`~mmseg_invattn.datasets.generative.DequantisedImages`.
    """

    METAINFO = {'classes': ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')}
    SOURCE = (
        'CIFAR-10 comes from https://www.cs.toronto.edu/~kriz/cifar.html: unpack cifar-10-python.tar.gz so that '
        'data_root holds cifar-10-batches-py/data_batch_1 to data_batch_5 and test_batch.'
    )

    def load(self) -> int:
        batches = []
        for name, md5 in (TRAIN if self.split == 'train' else TEST).items():
            path = self.path('cifar-10-batches-py', name)
            self.check_sum(path, md5)
            batches.append(read_batch(path))
        self.images, self.labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        return len(self.images)

    def read(self, index: int) -> tuple[np.ndarray, int]:
        return self.images[index], int(self.labels[index])
