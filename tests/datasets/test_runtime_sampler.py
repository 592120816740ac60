import itertools
import pickle
import random

import numpy as np
import pytest
import torch
from helpers.runtime_case import write_case
from mmengine.config import Config
from mmengine.dataset import ConcatDataset, RepeatDataset, pseudo_collate
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.registry import DATASETS, TRANSFORMS
from torch.utils.data import DataLoader

from mmseg_invattn.datasets import samplers
from mmseg_invattn.datasets.samplers import ResumableInfiniteSampler, SampleIndex, derive_seed
from mmseg_invattn.datasets.seed_transforms import SeedTransforms


class Draws(torch.utils.data.Dataset):
    """Returns what the three generators draw for a sample, as an augmentation would."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        SeedTransforms()(dict(sample_idx=index))
        return int(index), random.random(), np.random.rand(), torch.rand(()).item()


def stream(monkeypatch, count, rank=0, world_size=1, size=5, skip=0, **kwargs):
    monkeypatch.setattr(samplers, 'get_dist_info', lambda: (rank, world_size))
    sampler = ResumableInfiniteSampler(range(size), seed=3, **kwargs)
    if skip:
        sampler.skip(skip)
    return [(int(index), index.seed) for index in itertools.islice(sampler, count)]


def test_ranks_share_out_the_stream_of_one_process(monkeypatch):
    whole = stream(monkeypatch, 24)
    parts = [stream(monkeypatch, 8, rank, 3) for rank in range(3)]
    assert [parts[p % 3][p // 3] for p in range(24)] == whole


def test_every_pass_is_a_fresh_permutation(monkeypatch):
    passes = np.array(stream(monkeypatch, 40))[:, 0].reshape(8, 5)
    assert (np.sort(passes, axis=1) == np.arange(5)).all()
    assert len({tuple(row) for row in passes}) > 4
    assert [index for index, _ in stream(monkeypatch, 10, shuffle=False)] == [*range(5), *range(5)]


def test_seeds_differ_from_position_to_position_and_from_run_to_run(monkeypatch):
    assert len({seed for _, seed in stream(monkeypatch, 1000)}) == 1000
    assert derive_seed(1, 2) != derive_seed(2, 1)
    one, other = (list(itertools.islice(ResumableInfiniteSampler(range(50), seed=seed), 50)) for seed in (4, 5))
    assert one != other


@pytest.mark.parametrize('rank, world_size', [(0, 1), (1, 2)])
def test_skip_continues_where_the_uninterrupted_stream_would(monkeypatch, rank, world_size):
    assert stream(monkeypatch, 6, rank, world_size, skip=13) == stream(monkeypatch, 19, rank, world_size)[13:]


def test_skip_is_absolute_and_may_not_be_negative():
    sampler = ResumableInfiniteSampler(range(5), seed=0)
    sampler.skip(4)
    sampler.skip(2)
    fresh = ResumableInfiniteSampler(range(5), seed=0)
    assert next(iter(sampler)) == list(itertools.islice(fresh, 3))[2]
    with pytest.raises(ValueError, match='num_samples=-1'):
        sampler.skip(-1)


def test_empty_dataset_is_refused():
    with pytest.raises(ValueError, match='empty'):
        ResumableInfiniteSampler([])


def test_sample_index_is_an_int_that_keeps_its_seed():
    index = SampleIndex(7, 99)
    copy = pickle.loads(pickle.dumps(index))
    assert (copy, copy.seed, type(copy)) == (7, 99, SampleIndex)
    assert 'abcdefgh'[index] == 'h' and index == 7 and hash(index) == hash(7)
    assert ((index - 3).seed, index - 3, (index % 5).seed, index % 5) == (99, 4, 99, 2)


@pytest.mark.parametrize('batch_size', [1, 3])
def test_draws_do_not_depend_on_workers(batch_size):
    def draws(workers):
        random.seed(workers)
        np.random.seed(workers)
        torch.manual_seed(workers)
        loader = DataLoader(
            Draws(),
            batch_size,
            sampler=ResumableInfiniteSampler(range(5), seed=1),
            num_workers=workers,
            collate_fn=list,
        )
        return [sample for batch in itertools.islice(iter(loader), 4) for sample in batch]

    alone = draws(0)
    assert alone == draws(2)
    assert len({sample[1] for sample in alone}) == len(alone)


def test_plain_indices_leave_the_generators_alone():
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    for results in (dict(sample_idx=3), {}):
        assert TRANSFORMS.build(dict(type='SeedTransforms'))(results) is results
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


@pytest.mark.parametrize('wrapper', ['none', 'ConcatDataset', 'RepeatDataset'])
def test_the_seed_reaches_the_pipeline_of_a_real_dataset(tmp_path, wrapper):
    init_default_scope('mmseg')
    cfg = Config.fromfile(write_case(tmp_path))
    inner = DATASETS.build(cfg.train_dataloader.dataset)
    dataset = dict(
        none=lambda: inner,
        ConcatDataset=lambda: ConcatDataset([inner, inner]),
        RepeatDataset=lambda: RepeatDataset(inner, 2),
    )[wrapper]()
    last = len(dataset) - 1
    one, same, other = (dataset[SampleIndex(last, seed)]['inputs'] for seed in (5, 5, 6))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_runner_hands_the_seed_to_the_sampler(tmp_path):
    init_default_scope('mmseg')
    cfg = Config.fromfile(write_case(tmp_path))
    loaders = [Runner.build_dataloader(cfg.train_dataloader, seed=seed) for seed in (7, 7, 8)]
    assert loaders[0].collate_fn.func is pseudo_collate
    one, same, other = (next(iter(loader))['inputs'] for loader in loaders)
    assert all(map(torch.equal, one, same))
    assert not all(map(torch.equal, one, other))
