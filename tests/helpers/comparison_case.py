"""A comparison that looks as if it had been run: folders with made-up results of any number of heads and seeds."""

import json
from pathlib import Path

import numpy as np

from mmseg_invattn.engine.config_file import read_config
from mmseg_invattn.experiments.compare.plan import Run
from mmseg_invattn.experiments.compare.statistics import scores

CLASSES, IMAGES = 4, 12
CONFIG = """
train_cfg = dict(type='IterBasedTrainLoop', max_iters=1000)
train_dataloader = dict(
    batch_size=4,
    sampler=dict(type='ResumableInfiniteSampler'),
    dataset=dict(data_root='data', pipeline=[dict(type='SeedTransforms')]),
)
optim_wrapper = dict(optimizer=dict(lr={lr}))
model = dict(decode_head=dict(type='{name}'))
"""
OPTIONS = {'train_cfg.max_iters': 200}
START = dict(
    time='2026-01-02 03:04:05',
    device='a device',
    python='3.11.0',
    versions=dict(torch='2.0'),
    commit='abc',
    command='tools/compare.py',
)


def made_up_counts(seed: int, accuracy: float) -> np.ndarray:
    """Areas of images in which about this share of the pixels is right, (images, 3, classes)."""
    rng = np.random.default_rng(seed)
    true = np.random.default_rng(99).integers(500, 1500, (IMAGES, CLASSES))
    hit = np.round(true * np.clip(accuracy + 0.05 * rng.standard_normal(true.shape), 0, 1)).astype(np.int64)
    missed = (true - hit).sum(1, keepdims=True)
    wrong = np.round(missed * rng.dirichlet(np.ones(CLASSES), IMAGES)).astype(np.int64)
    return np.stack([hit, hit + wrong, true], 1)


def made_up_runs(
    out: Path, heads: int = 3, seeds: tuple[int, ...] = (0, 1), iterations: int = 200, share: float = 0.3
) -> list[Run]:
    """Folders of so many heads; odd ones are invertible, the head 2 has failed with its last seed."""
    runs = []
    for number in range(heads):
        name = f'head{number}_r18-d8_data' if number else 'fcn_r18-d8_data'
        config = out / 'configs' / f'{name}.py'
        config.parent.mkdir(exist_ok=True)
        config.write_text(CONFIG.format(name=name, lr=0.01 * (1 + number // 3)))
        for seed in seeds:
            folder = out / name / f'seed_{seed}'
            cfg = read_config(config, OPTIONS)
            run = Run(name, str(config), seed, cfg, folder, None, fingerprint=f'{number}{seed}')
            write_run(run, number, failed=number == 2 and seed == seeds[-1], iterations=iterations, share=share)
            runs.append(run)
    return runs


def write_run(run: Run, number: int, failed: bool, iterations: int, share: float) -> None:
    """The files of one run."""
    logs = run.folder / '20260102_030405' / 'vis_data'
    (run.folder / 'evaluation').mkdir(parents=True)
    logs.mkdir(parents=True)
    write(run.folder / 'run.json', dict(fingerprint=run.fingerprint, starts=[START]))
    rng = np.random.default_rng(run.seed + 10 * number)
    lines = [
        dict(loss=float(2 * np.exp(-i / 80) + 0.1 * rng.random()), time=0.1 * (1 + number), step=i)
        for i in range(1, iterations, 2)
    ]
    lines += [
        dict(mIoU=float(60 - 50 * np.exp(-i / 80) + number + rng.random()), step=i) for i in range(20, iterations, 20)
    ]
    (logs / 'scalars.json').write_text('\n'.join(map(json.dumps, lines)) + '\n{"loss": 1.')  # killed while it wrote
    if failed:
        write(run.folder / 'failed.json', dict(message='training killed by SIGKILL', tail=['a <line>', 'the last']))
        return
    write(run.folder / 'trained.json', dict(checkpoint='iter.pth', resident_bytes=(1 + number) * 2**29))
    counts = made_up_counts(run.seed, 0.75 + 0.01 * number)
    images = [f'/data/{i}.png' for i in range(IMAGES)]
    np.savez(run.folder / 'evaluation' / 'areas.npz', counts=counts, images=images)
    found, attention, inverse = scores(counts.sum(0)), {}, {}
    if number % 2:
        attention = dict(
            block=dict(
                bound=0.9, local_lipschitz=0.2 + 0.1 * run.seed, saturation=0.1, tokens=64, share=share, invertible=True
            )
        )
        inverse = dict(
            block=dict(inverse_error=1e-4, relative_error=1e-7 * (1 + run.seed), error_bound=1e-3, evaluations=7.0)
        )
    elif number:
        attention = dict(
            block=dict(bound=None, local_lipschitz=12.0, saturation=None, tokens=64, share=share, invertible=False)
        )
    write(
        run.folder / 'evaluation.json',
        dict(
            miou=float(found.miou),
            aacc=float(found.aacc),
            iou=found.iou.tolist(),
            classes=['sky', 'road', 'tree', 'sign'],
            images=images,
            palette=[[70, 130, 180], [128, 64, 128], [107, 142, 35], [220, 220, 0]],
            parameters=12_345_678 + number,
            flops=10**10,
            attention=attention,
            inverse=inverse,
        ),
    )


def write(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content))


def made_up_speed(runs: list[Run]) -> dict:
    names = list(dict.fromkeys(run.name for run in runs))
    return dict(
        device='a device',
        batch=8,
        shape=[360, 480],
        heads={
            name: dict(latency=0.01 * (1 + i), throughput=500.0 - 30 * i, peak_bytes=None, rounds=50)
            for i, name in enumerate(names)
        },
    )
