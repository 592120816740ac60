"""Heads with one seed are pairs: the same images in the same order, augmented alike, and the same dropout."""

import hashlib
import random
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from helpers.comparison_case import OPTIONS, made_up_runs
from helpers.runtime_case import run_tool, stop_workers, write_case
from mmengine.runner import IterBasedTrainLoop

from mmseg_invattn.experiments.compare.facts import facts, reduced, warnings
from mmseg_invattn.experiments.compare.pairing import set_apart, unpaired
from mmseg_invattn.experiments.compare.summary import summarise

HEADS = dict(
    control='',
    ordinary="model = dict(decode_head=dict(type='InvFCNHead', attention=dict(form='none')))",
    certified="model = dict(decode_head=dict(type='InvFCNHead', attention=dict(form='certified', reduction=1)))",
)
ITERATION = IterBasedTrainLoop.run_iter


def fingerprint(tensors: list[torch.Tensor]) -> str:
    return hashlib.sha256(b''.join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest()


def seen_in_training(config: Path, draws: int, *options: str) -> list[tuple]:
    """Train a head that draws so many numbers of its own in every iteration.

    Returns:
        Of every iteration: files, fingerprint of the augmented images and labels, and of what dropout draws from.
    """
    seen, dropped = [], []

    def iteration(loop, batch):
        samples = batch['data_samples']
        files = tuple(Path(sample.img_path).name for sample in samples)
        crops = fingerprint([*batch['inputs'], *(sample.gt_sem_seg.data for sample in samples)])
        dropout = loop.runner.model.decode_head.dropout
        with dropout.register_forward_pre_hook(lambda *_: dropped.append(fingerprint([torch.get_rng_state()]))):
            ITERATION(loop, batch)
        np.random.rand(draws)  # as a head would that draws numbers of its own
        [random.random() for _ in range(draws)]
        torch.rand(draws)
        seen.append((files, crops))

    with mock.patch.object(IterBasedTrainLoop, 'run_iter', iteration):
        run_tool('train', config, '--work-dir', config.with_suffix(''), options=('randomness.seed=3', *options))
    stop_workers()
    assert len(seen) == len(dropped) == 6
    return list(zip(seen, dropped, strict=True))


@pytest.mark.parametrize('workers', [0, 2])
def test_all_heads_see_the_same(tmp_path, workers):
    base = Path(write_case(tmp_path))
    seen = {}
    for draws, (name, change) in enumerate(HEADS.items()):
        config = base.with_name(f'{name}.py')
        config.write_text(f"_base_ = './tiny.py'\n{change}\n")
        seen[name] = seen_in_training(config, draws, f'train_dataloader.num_workers={workers}')
    assert len({crops for (_, crops), _ in seen['control']}) == 6
    assert seen['control'] == seen['ordinary'] == seen['certified']


def changed(run, **options):
    run.cfg.merge_from_dict({key.replace('__', '.'): value for key, value in options.items()})
    return run


def test_what_makes_runs_no_pairs(tmp_path):
    runs = made_up_runs(tmp_path, heads=4, seeds=(0,))
    assert unpaired(runs) == []
    changed(runs[1], train_dataloader__sampler__type='InfiniteSampler')
    changed(runs[2], train_dataloader__batch_size=8, train_dataloader__num_workers=3)
    runs[3].cfg.train_dataloader.dataset.pipeline = [dict(type='LoadImageFromFile')]
    names = [run.name for run in runs]
    assert (
        unpaired(runs[:2])[0] == f'{names[1]} draws its images with InfiniteSampler, not with ResumableInfiniteSampler'
    )
    assert unpaired([runs[0], runs[2]]) == [f'{names[2]} and {names[0]} differ in train_dataloader.batch_size']
    assert unpaired([runs[0], runs[3]])[0] == f'the training pipeline of {names[3]} does not begin with SeedTransforms'
    told = warnings(summarise(runs, runs[0].name, None, None))
    assert len(told) == 5 and all(line.startswith('Runs with the same seed are not paired: ') for line in told)


def test_settings_that_set_a_config_apart(tmp_path):
    runs = made_up_runs(tmp_path, heads=4, seeds=(0,))
    assert set_apart(runs[1].cfg, runs[0].cfg) == []  # another decode head, and no more
    assert set_apart(runs[3].cfg, runs[0].cfg) == ['optim_wrapper.optimizer.lr']
    changed(runs[1], model__backbone=dict(depth=18), train_cfg__max_iters=7)
    assert set_apart(runs[1].cfg, runs[0].cfg) == ['model.backbone', 'train_cfg.max_iters']


def test_the_protocol_at_the_top(tmp_path):
    runs = made_up_runs(tmp_path, heads=4, seeds=(0, 1))
    results = summarise(runs, runs[0].name, OPTIONS, None)
    told = dict(facts(results))
    assert reduced(results) == 'Reduced protocol: the training was shortened to 200 of 1000 iterations.'
    assert told['training'] == '200 iterations of batch 4 (the config has 1000)'
    assert told['options'] == 'train_cfg.max_iters=200 (was 1000)'
    assert told['configs'].endswith('besides the decode head: head3 in optim_wrapper.optimizer.lr')
    assert (told['seeds'], told['images'], told['date']) == ('2: 0, 1', '12 evaluated, 4 classes', '2026-01-02')
    assert (told['device'], told['commit'], told['versions']) == ('a device', 'abc', 'torch 2.0, Python 3.11.0')
    for run in runs:
        run.cfg.train_cfg.max_iters = 1000
    whole = summarise(runs, runs[0].name, None, None)
    assert reduced(whole) == '' and dict(facts(whole))['training'] == '1000 iterations of batch 4'
    assert 'options' not in dict(facts(whole))
