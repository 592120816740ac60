"""Small files in the formats of CIFAR-10, SVHN and CelebA."""

import pickle
from pathlib import Path

import cv2
import numpy as np


def write_cifar10(root: Path, per_batch: int = 8) -> np.ndarray:
    """Writes all batches under the names by which the published pickles ask for NumPy; returns the test images."""
    folder, generator = root / 'cifar-10-batches-py', np.random.default_rng(0)
    folder.mkdir(parents=True)
    for name in [*(f'data_batch_{i}' for i in range(1, 6)), 'test_batch']:
        data = smooth(generator, per_batch).reshape(per_batch, -1)
        batch = {'batch_label': name, 'labels': generator.integers(0, 10, per_batch).tolist(), 'data': data}
        content = pickle.dumps(batch, protocol=3).replace(b'numpy._core.multiarray', b'numpy.core.multiarray')
        (folder / name).write_bytes(content)
    return data.reshape(-1, 3, 32, 32)


def write_svhn(root: Path, count: int = 8) -> np.ndarray:
    """Writes both files, with label 10 for the digit 0; returns the test images."""
    from scipy.io import savemat

    generator = np.random.default_rng(1)
    root.mkdir(parents=True, exist_ok=True)
    for name in ('train', 'test'):
        images = smooth(generator, count)
        labels = (np.arange(count) % 10 + 1)[:, None].astype(np.uint8)
        savemat(root / f'{name}_32x32.mat', {'X': images.transpose(2, 3, 1, 0), 'y': labels})
    return images


def write_celeba(root: Path, count: int = 6) -> None:
    """Writes as many images of each split."""
    generator = np.random.default_rng(2)
    (root / 'img_align_celeba').mkdir(parents=True)
    lines = []
    for i in range(3 * count):
        name = f'{i + 1:06d}.jpg'
        image = cv2.resize(smooth(generator, 1)[0].transpose(1, 2, 0), (178, 218))
        cv2.imwrite(str(root / 'img_align_celeba' / name), image)
        lines.append(f'{name} {i // count}')
    (root / 'list_eval_partition.txt').write_text('\n'.join(lines) + '\n')


def smooth(generator: np.random.Generator, count: int) -> np.ndarray:
    """Images (count, 3, 32, 32) uint8 of a few colours: like photographs, neighbours are alike."""
    coarse = generator.integers(0, 256, (count, 3, 4, 4)).astype(np.float32)
    fine = np.stack([cv2.resize(image.transpose(1, 2, 0), (32, 32)) for image in coarse]).transpose(0, 3, 1, 2)
    return fine.round().astype(np.uint8)
