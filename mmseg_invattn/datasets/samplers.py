"""Sampling that makes a training run a function of (config, seed) alone.

The samples of a run form one infinite stream. The index and the augmentation seed at position ``p`` of it follow from
the base seed and ``p`` alone. They do not depend on the number of workers or ranks, or on interruptions. Rank ``r`` of
``W`` takes the positions ``r, r + W, r + 2 W, ...``, so that in every iteration ``W`` ranks with batch ``b`` see the
samples that one process with batch ``b W`` sees.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sized

import numpy as np
import torch
from mmengine.dist import get_dist_info, sync_random_seed
from mmseg.registry import DATA_SAMPLERS
from torch.utils.data import Sampler


def derive_seed(*parts: int) -> int:
    """Mix integers into one seed of 32 bits.

    Args:
        parts: Non-negative integers, such as a base seed and a position. The seed depends on each and on their order.

    Returns:
        A seed that ``random``, ``numpy`` and ``torch`` all accept.
    """
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


class SampleIndex(int):
    """Index of a sample that also carries the seed of its augmentation.

    Otherwise it behaves as an ``int``. The seed survives pickling (to the workers) and the operations ``-`` and ``%``,
    by which MMEngine's ``ConcatDataset`` and ``RepeatDataset`` turn an outer index into an inner one. Wrappers that
    look the index up in a table lose the seed, but :class:`SeededSamples` has applied it before.

    Args:
        index: Position of the sample in the dataset.
        seed: Seed of everything random that happens to it.
    """

    seed: int

    def __new__(cls, index: int, seed: int) -> SampleIndex:
        self = super().__new__(cls, index)
        self.seed = seed
        return self

    def __getnewargs__(self) -> tuple[int, int]:
        return int(self), self.seed

    def __sub__(self, other: int) -> SampleIndex:
        return SampleIndex(int(self) - other, self.seed)

    def __mod__(self, other: int) -> SampleIndex:
        return SampleIndex(int(self) % other, self.seed)


def seed_generators(seed: int) -> None:
    """Seed ``random``, ``numpy`` and torch's CPU generator."""
    random.seed(seed)
    np.random.seed(seed)
    # not torch.manual_seed, which would touch CUDA in a forked worker
    torch.default_generator.manual_seed(seed)


class SeededSamples:
    """Draws the samples of a batch one by one, and seeds the generators before each with the seed of its index.

    Torch's loaders call it as the ``__getitems__`` of a data set. The seed therefore holds for everything random in
    any wrapper around the data, whatever the wrapper does with the index.

    Args:
        dataset: The outermost data set. One that has ``__getitems__`` itself is asked for batches of one.
    """

    def __init__(self, dataset: object) -> None:
        self.dataset = dataset

    def __call__(self, indices: list[int]) -> list:
        batch = getattr(type(self.dataset), '__getitems__', None)
        samples = []
        for index in indices:
            if isinstance(index, SampleIndex):
                seed_generators(index.seed)
            samples.append(batch(self.dataset, [index])[0] if batch else self.dataset[index])
        return samples


@DATA_SAMPLERS.register_module()
class ResumableInfiniteSampler(Sampler):
    """Infinite sampler whose stream does not depend on workers, ranks or interruptions.

    It replaces MMEngine's ``InfiniteSampler``. Its indices carry seeds. :class:`SeededSamples`, which this sampler sets
    as ``dataset.__getitems__``, seeds the random generators before a loader draws a sample. :class:`SeedTransforms` at
    the head of the training pipeline does so for samples that are drawn without a loader.

    Args:
        dataset: The dataset.
        shuffle: Whether every pass over the dataset is a new permutation.
        seed: Base seed, the same on all ranks; None draws one and shares it with all ranks.

    Raises:
        ValueError: If the dataset is empty.
    """

    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int | None = None) -> None:
        if len(dataset) == 0:
            raise ValueError(
                'the training dataset is empty: an infinite sampler needs at least 1 sample; '
                'check data_root, data_prefix and ann_file of train_dataloader.dataset'
            )
        self.rank, self.world_size = get_dist_info()
        self.dataset = dataset
        self.size = len(dataset)
        self.shuffle = shuffle
        self.seed = sync_random_seed() if seed is None else seed
        self._skipped = 0
        if hasattr(dataset, '__dict__'):  # not a list
            dataset.__getitems__ = SeededSamples(dataset)

    def __iter__(self) -> Iterator[SampleIndex]:
        """Yield the indices of this rank, starting after those that were skipped."""
        position = self.rank + self._skipped * self.world_size
        current_pass, order = -1, []
        while True:
            number, offset = divmod(position, self.size)
            if number != current_pass:
                current_pass, order = number, self._order_of_pass(number)
            yield SampleIndex(order[offset], derive_seed(self.seed, position))
            position += self.world_size

    def _order_of_pass(self, number: int) -> list[int]:
        if not self.shuffle:
            return list(range(self.size))
        generator = torch.Generator().manual_seed(derive_seed(self.seed, number, 1))
        return torch.randperm(self.size, generator=generator).tolist()

    def skip(self, num_samples: int) -> None:
        """Start the next iteration after the samples that a previous run has consumed.

        MMEngine's training loop calls this when it resumes. The position is absolute, and skipping to it costs nothing.

        Args:
            num_samples: Samples consumed per rank, counted from the start of the stream.

        Raises:
            ValueError: If ``num_samples`` is negative.
        """
        if num_samples < 0:
            raise ValueError(f'num_samples={num_samples}: the number of samples to skip must be at least 0')
        self._skipped = num_samples

    def __len__(self) -> int:
        return self.size

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: the stream has no epochs, but MMEngine's hooks call this on every sampler."""
