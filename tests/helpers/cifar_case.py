"""CIFAR-10 in small: random pictures in the layout and the format of the real one."""

import pickle
from pathlib import Path

import numpy as np


def write_cifar(folder: Path, count: int = 12) -> Path:
    """Six batches of ``count`` images; a class is a colour, so that there is something to learn."""
    generator = np.random.default_rng(0)
    (folder / 'cifar-10-batches-py').mkdir(parents=True)
    for name in (*(f'data_batch_{i}' for i in range(1, 6)), 'test_batch'):
        labels = generator.integers(0, 10, count)
        images = generator.integers(0, 100, (count, 3, 32, 32)) + 15 * labels[:, None, None, None]
        batch = dict(data=images.reshape(count, -1).astype(np.uint8), labels=labels.tolist())
        (folder / 'cifar-10-batches-py' / name).write_bytes(pickle.dumps(batch, protocol=4))
    return folder


def data_options(root: Path) -> tuple[str, ...]:
    """``--cfg-options`` by which a config for CIFAR-10 takes these data."""
    return tuple(
        f'{split}_dataloader.dataset.{key}'
        for split in ('train', 'val', 'test')
        for key in (f'data_root={root}', 'verify=False')
    )
