"""Heads with one seed are pairs: the same images in the same order, augmented alike, and the same dropout."""

import hashlib
import random
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from helpers.runtime_case import run_tool, stop_workers, write_case
from mmengine.runner import IterBasedTrainLoop

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
