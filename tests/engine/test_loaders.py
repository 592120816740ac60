"""Errors name loaders that hang; a resumed run skips seen data with both versions of MMEngine."""

import itertools
import time
from types import SimpleNamespace

import pytest
from mmengine.dataset import InfiniteSampler
from mmengine.runner import BaseLoop
from torch.utils.data import DataLoader, Dataset

from mmseg_invattn.compat import skip_trained_data
from mmseg_invattn.datasets import ResumableInfiniteSampler
from mmseg_invattn.engine.config_checks import ConfigError, loaders
from mmseg_invattn.engine.config_checks.sections import check_counts

UNLIMITED = -1


@pytest.fixture
def limits(monkeypatch):
    """The limits of open files, in a list [soft, hard]."""
    values = [1024, 1024]
    fake = SimpleNamespace(
        RLIMIT_NOFILE=7,
        RLIM_INFINITY=UNLIMITED,
        getrlimit=lambda _: tuple(values),
        setrlimit=lambda _, new: values.__setitem__(slice(None), new),
    )
    monkeypatch.setattr(loaders, 'resource', fake)
    monkeypatch.setattr(loaders.multiprocessing, 'get_sharing_strategy', lambda: 'file_descriptor')
    return values


def config(**loader) -> dict:
    return dict(train_dataloader=dict(dict(batch_size=480, num_workers=2), **loader), val_dataloader=None)


def test_too_many_open_files_are_refused(limits):
    with pytest.raises(ConfigError, match=r'batch_size is 480.*2944 files.*1024 here.*to 160 or below.*num_workers=0'):
        loaders.allow_open_files(config())
    with pytest.raises(ConfigError, match='prefetch_factor=4'):
        loaders.allow_open_files(config(batch_size=160, prefetch_factor=4))
    assert limits == [1024, 1024]
    for fine in (config(batch_size=160), config(num_workers=0), config(collate_fn=dict(type='default_collate')), {}):
        loaders.allow_open_files(fine)
    assert limits == [1024, 1024]


@pytest.mark.parametrize('hard', [4096, UNLIMITED])
def test_the_soft_limit_is_raised_where_the_system_lets_it(limits, hard):
    limits[1] = hard
    loaders.allow_open_files(config())
    assert limits == [2944, hard]
    loaders.allow_open_files(config(batch_size=2))
    assert limits == [2944, hard]
    limits[:] = [UNLIMITED, UNLIMITED]
    loaders.allow_open_files(config(batch_size=100_000))
    assert limits == [UNLIMITED, UNLIMITED]


def test_patience_is_set_where_workers_are_waited_for():
    cfg = config()
    cfg |= dict(val_dataloader=dict(num_workers=0, timeout=600), test_dataloader=dict(num_workers=1, timeout=5))
    loaders.set_patience(cfg)
    assert [cfg[f'{s}_dataloader']['timeout'] for s in ('train', 'val', 'test')] == [loaders.PATIENCE, 0, 5]


def test_batches_that_take_too_long(monkeypatch):
    times = itertools.count(0, 0.05)  # a sample takes 0.05 s
    monkeypatch.setattr(loaders.time, 'perf_counter', lambda: next(times))
    loader = SimpleNamespace(batch_size=100_000, timeout=600, num_workers=2)
    with pytest.raises(ConfigError, match=r'x\.batch_size is 100000 and a sample takes 0\.05 s .* 83 minutes'):
        loaders.check_batch_time(loader, 'x', list, 9.0)
    loader.num_workers, loader.timeout = 0, 0
    assert '83 minutes for a batch. Lower batch_size' in loaders.check_batch_time(loader, 'x', list, 9.0)
    loader.batch_size = 8000  # 72 000 s by the first sample, which also imports, and 400 s by the next
    assert loaders.check_batch_time(loader, 'x', list, 9.0) == ''


class Stands(Dataset):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        time.sleep(3 * index)
        return index


class Loop(BaseLoop):
    def run(self) -> list:
        return list(self.dataloader)


def test_a_loader_that_gives_nothing_is_named():
    loader = DataLoader(Stands(), 1, num_workers=1, timeout=1)
    loop = Loop.__new__(Loop)
    loop.dataloader = loader
    runner = SimpleNamespace(_train_loop=None, _val_loop=loop)
    with pytest.raises(ConfigError, match=r'val_dataloader gave no batch for 1 s \(val_dataloader\.timeout\)'):
        with loaders.patience_explained(runner):
            loop.run()
    with pytest.raises(RuntimeError, match='another'), loaders.patience_explained(runner):
        raise RuntimeError('another')


@pytest.mark.parametrize('count', [0, -5])
@pytest.mark.parametrize('name', ['max_iters', 'max_epochs', 'val_interval'])
def test_trainings_of_no_iterations(name, count):
    with pytest.raises(ConfigError, match=f'train_cfg.{name} is {count}, but must be at least 1'):
        check_counts(dict(train_cfg={name: count}))


class Loaded(Dataset):
    """Remembers what was loaded."""

    def __init__(self) -> None:
        self.loaded = []

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> int:
        self.loaded.append(int(index))
        return int(index)


class Eager:
    """What MMEngine 0.10.7 draws batches from: the loader's iterator stands from the start, and nothing skips."""

    def __init__(self, dataloader: DataLoader) -> None:
        self._iterator = iter(dataloader)

    def __next__(self) -> list:
        return next(self._iterator)


class OldInfinite(InfiniteSampler):
    """The sampler of MMEngine 0.10.7 has no ``skip`` and always returns the same generator."""

    skip = property()  # hasattr is False

    def __init__(self, *arguments, **more) -> None:
        super().__init__(*arguments, **more)
        self.indices = self._indices_of_rank()

    def __iter__(self):
        yield from self.indices


@pytest.mark.parametrize('sampler', [ResumableInfiniteSampler, OldInfinite])
def test_resumed_run_on_the_older_mmengine_loads_nothing_again(sampler):
    def batches(resumed_at: int) -> tuple[list, list]:
        data = Loaded()
        loader = DataLoader(data, 2, sampler=sampler(data, seed=0), collate_fn=list)
        loop = SimpleNamespace(dataloader=loader, iter=resumed_at, dataloader_iterator=Eager(loader))
        skip_trained_data(loop)
        for _ in range(loop.iter):  # as IterBasedTrainLoop does
            next(loop.dataloader_iterator)
        return [next(loop.dataloader_iterator) for _ in range(4)], data.loaded

    whole, _ = batches(0)
    rest, loaded = batches(2)
    assert rest[:2] == whole[2:] and loaded == sum(rest, [])


def test_others_are_left_to_mmengine():
    newer = SimpleNamespace(skip_iter=print)
    loop = SimpleNamespace(iter=3, dataloader_iterator=newer)
    skip_trained_data(loop)
    assert loop.dataloader_iterator is newer
    skip_trained_data(SimpleNamespace(iter=3))  # a loop of epochs
