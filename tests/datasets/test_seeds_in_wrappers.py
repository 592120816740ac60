"""The seed of a sample reaches its augmentation through every wrapper around the data."""

import random
from itertools import islice

import numpy as np
import pytest
import torch
from helpers.runtime_case import write_case
from mmengine.config import Config
from mmengine.dataset import BaseDataset, ClassBalancedDataset, ConcatDataset, RepeatDataset, pseudo_collate
from mmengine.registry import init_default_scope
from torch.utils.data import ConcatDataset as TorchConcat
from torch.utils.data import DataLoader, Dataset, Subset

from mmseg_invattn.cli.test import enable_tta
from mmseg_invattn.datasets import ResumableInfiniteSampler, SeedTransforms


class Drawn(BaseDataset):
    """Ten samples; each is its index and what the three generators draw."""

    METAINFO = dict(classes=('a', 'b'))

    def load_data_list(self):
        return [dict(img_path=str(index)) for index in range(10)]

    def get_cat_ids(self, idx):
        return [int(idx < 2)]


def draw(results: dict) -> list:
    return [results['img_path'], random.random(), np.random.rand(), torch.rand(()).item()]


class Looked(Dataset):
    """A wrapper of a user: it looks indices up, and is random itself."""

    def __init__(self, inner) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> list:
        return [*self.inner[list(range(len(self)))[-1 - index]], random.random()]


class Batched(Looked):
    def __getitems__(self, indices: list[int]) -> list:
        return [self[index] for index in indices]


PLAIN = dict(type=Drawn, pipeline=[SeedTransforms(), draw])
BALANCED = dict(type=ClassBalancedDataset, dataset=PLAIN, oversample_thr=0.9)


def plain() -> Drawn:
    return Drawn(pipeline=PLAIN['pipeline'])


WRAPPERS = dict(
    none=plain,
    balanced=lambda: ClassBalancedDataset(PLAIN, oversample_thr=0.9),
    repeated_balanced=lambda: RepeatDataset(BALANCED, 2),
    balanced_concat=lambda: ConcatDataset([PLAIN, BALANCED]),
    subset=lambda: Subset(plain(), [7, 3, 5, 1]),
    torch_concat=lambda: TorchConcat([Subset(plain(), [2, 4]), plain()]),
    looked=lambda: Looked(plain()),
    batched=lambda: Batched(Looked(plain())),
)


def samples(name: str, workers: int, skip: int = 0) -> list:
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(workers + skip)  # the state of the process does not matter
    dataset = WRAPPERS[name]()
    sampler = ResumableInfiniteSampler(dataset, seed=3)
    sampler.skip(skip)
    loader = DataLoader(dataset, 3, sampler=sampler, num_workers=workers, collate_fn=list)
    return [sample for batch in islice(iter(loader), 4) for sample in batch]


@pytest.mark.parametrize('name', WRAPPERS)
def test_samples_depend_on_their_position_alone(name):
    drawn = samples(name, 0)
    assert len({sample[1] for sample in drawn}) == len(drawn)
    assert samples(name, 0, skip=6)[:6] == drawn[6:]
    if name in ('repeated_balanced', 'batched'):  # starting workers takes seconds
        assert samples(name, 2) == drawn


def test_tta_reaches_the_data_sets_in_wrappers(tmp_path):
    from mmseg.registry import DATASETS

    init_default_scope('mmseg')
    cfg = Config.fromfile(write_case(tmp_path))
    inner = cfg.test_dataloader.dataset
    nested = dict(type='ConcatDataset', datasets=[inner, dict(type='RepeatDataset', times=2, dataset=inner)])
    for wrapped, count in ((inner, 4), (dict(type='RepeatDataset', times=2, dataset=nested), 24), (nested, 12)):
        cfg.test_dataloader.dataset = wrapped
        enable_tta(cfg)
        assert cfg.model.type == 'MeanTTAModel'
        cfg.model = cfg.model.module
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
        assert len(dataset) == count
        assert len(pseudo_collate([dataset[count - 1]])['inputs']) == 2  # as it is, and flipped
