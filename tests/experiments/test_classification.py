"""Classification of CIFAR-10 by the tools: data, metric, training, testing, and the analysis of what was learnt."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.checkout import ROOT
from helpers.cifar_case import data_options, write_cifar
from helpers.runtime_case import run_tool
from mmengine.config import Config
from mmseg.registry import MODELS

from mmseg_invattn.datasets import Cifar10Classification
from mmseg_invattn.datasets.samplers import SampleIndex
from mmseg_invattn.evaluation import ClassificationAccuracy
from mmseg_invattn.experiments.classify.accuracy_table import markdown_table, read_run
from mmseg_invattn.experiments.explore.relative_attention_pictures import read_centres
from mmseg_invattn.models import ImageClassifier

SHORT = ROOT / 'configs' / 'self_attention' / 'cifar10_short'


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    return write_cifar(tmp_path_factory.mktemp('cifar'))


@pytest.fixture(scope='module')
def run(data, tmp_path_factory):
    """A run of six iterations of the smallest kind of each network; by name of the config."""
    folders = {}

    def trained(name: str) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name)
            small = (
                ('base_channels=8', 'stem_channels=8')
                if name == 'resnet18'
                else ('channels=12', 'num_layers=2', 'out_indices=(1,)', 'feedforward_channels=8')
            )
            run_tool(
                'train',
                SHORT / f'{name}.py',
                '--work-dir',
                folders[name],
                options=(
                    *data_options(data),
                    *(f'+model.backbone.{option}' for option in small),
                    f'model.in_channels={64 if name == "resnet18" else 12}',
                    'train_cfg.max_iters=6',
                    'train_cfg.val_interval=6',
                    'train_dataloader.batch_size=10',
                    'custom_hooks.0.interval=2',
                ),
            )
        return folders[name]

    return trained


def metrics(folder: Path) -> dict:
    return json.loads(next(folder.glob('*/*.json')).read_text())


@pytest.mark.parametrize('name', ['quadratic', 'resnet18'])
def test_trains_and_tests(name, run, data, tmp_path):
    folder = run(name)
    scalars = [json.loads(line) for line in next(folder.glob('*/vis_data/scalars.json')).read_text().splitlines()]
    in_training = next(line['accuracy/top1'] for line in scalars if 'accuracy/top1' in line)
    run_tool('test', folder / f'{name}.py', folder / 'iter_6.pth', '--work-dir', tmp_path)
    assert metrics(tmp_path)['accuracy/top1'] == pytest.approx(in_training)
    assert metrics(tmp_path)['accuracy/top1'] <= metrics(tmp_path)['accuracy/top5'] <= 100


def test_table_of_runs(run, tmp_path):
    rows = [read_run(run(name)) for name in ('quadratic', 'resnet18')]
    assert [row['iterations'] for row in rows] == [6, 6]
    with torch.device('meta'):
        model = MODELS.build(Config.fromfile(run('resnet18') / 'resnet18.py').model)
    assert rows[1]['parameters'] == sum(p.numel() for p in model.parameters())
    lines = markdown_table(rows).splitlines()
    assert len(lines) == 4 and all(line.count('|') == 7 for line in lines)
    shutil.copytree(run('quadratic'), tmp_path / 'a' / 'seed_1')
    rows[0].update(name='a', accuracy=rows[0]['accuracy'] - 2)
    both = markdown_table([rows[0], read_run(tmp_path / 'a' / 'seed_1')]).splitlines()
    low = rows[0]['accuracy']
    assert len(both) == 3 and f'| 6 | 2 | {low + 1:.1f} ({low:.1f} to {low + 2:.1f}) |' in both[2]
    with pytest.raises(FileNotFoundError, match='there is no vis_data'):
        read_run(tmp_path)
    (tmp_path / '1' / 'vis_data').mkdir(parents=True)
    (tmp_path / '1' / 'vis_data' / 'scalars.json').write_text('{"loss": 1, "step": 1}\n')
    with pytest.raises(FileNotFoundError, match='has no checkpoint'):
        read_run(tmp_path)
    (tmp_path / 'iter_1.pth').write_text('')
    with pytest.raises(ValueError, match='no accuracy/top1'):
        read_run(tmp_path)


def test_hook_writes_the_centres(run):
    iterations, centres, precisions = read_centres(run('quadratic') / 'attention_centres.jsonl')
    assert iterations == [0, 2, 4, 6] and len(centres) == 2
    state = torch.load(run('quadratic') / 'iter_6.pth', weights_only=True)['state_dict']
    for name, values in centres.items():
        np.testing.assert_allclose(values[-1], state[f'{name}.centre'])
        assert np.abs(values[-1] - values[0]).max() > 0
        np.testing.assert_allclose(precisions[name][-1, :, 0, 0], state[f'{name}.root'][:, 0] ** 2, rtol=1e-6)
    assert not (run('resnet18') / 'attention_centres.jsonl').exists()


def test_a_resumed_run_continues_the_centres(data, tmp_path):
    options = (
        *data_options(data),
        'model.backbone.channels=4',
        'model.in_channels=4',
        'model.backbone.num_layers=1',
        '+model.backbone.out_indices=(0,)',
        'train_dataloader.batch_size=4',
        'train_cfg.val_interval=100',
        'custom_hooks.0.interval=1',
    )
    for steps, more in ((3, ()), (2, ('--overwrite',)), (4, ('--resume',))):  # the second starts anew
        run_tool(
            'train',
            SHORT / 'quadratic.py',
            '--work-dir',
            tmp_path,
            *more,
            options=(*options, f'train_cfg.max_iters={steps}', 'default_hooks.checkpoint.interval=2'),
        )
    assert read_centres(tmp_path / 'attention_centres.jsonl')[0] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize('name', ['quadratic', 'learned-content'])
def test_analysis(name, run, tmp_path, capsys):
    checkpoint, out = run(name) / 'iter_6.pth', tmp_path / 'out'
    run_tool('analysis/attention_vs_conv', checkpoint, '--out', out, '--images', '2', '--query', '1', '6')
    rows = json.loads((out / 'heads.json').read_text())
    assert len(rows) == 2 * 9 and [row['head'] for row in rows[:9]] == list(range(9))
    assert all(0 < row['tap_weight'] <= 1 and row['entropy'] >= 0 and row['spread'] >= 0 for row in rows)
    assert (out / 'probabilities.png').stat().st_size > 1000
    assert (out / 'centres.png').exists() == (name == 'quadratic')
    assert 'weight at tap' in capsys.readouterr().out
    if name == 'quadratic':
        for row in rows:  # free of the border, a wide head has the centre and the width of its parameters
            np.testing.assert_allclose(row['centre'], row['parameters']['centre'], atol=0.05)
            assert row['spread'] == pytest.approx(np.hypot(*row['parameters']['sigma']), rel=0.05)
        with pytest.raises(FileExistsError, match='heads.json and . more files would be replaced'):
            run_tool('analysis/attention_vs_conv', checkpoint, '--out', out)
        run_tool('analysis/attention_vs_conv', checkpoint, '--out', out, '--images', '1', '--overwrite')


def test_analysis_of_several_runs(run, tmp_path, capsys):
    checkpoint, again = run('quadratic') / 'iter_6.pth', tmp_path / 'again'
    shutil.copytree(checkpoint.parent, again)
    run_tool('analysis/attention_vs_conv', checkpoint, again / 'iter_6.pth', '--out', tmp_path / 'out', '--images', '1')
    rows = json.loads((tmp_path / 'out' / 'heads.json').read_text())
    assert [row['run'] for row in rows[::18]] == [str(checkpoint), str(again / 'iter_6.pth')]
    curves = json.loads((tmp_path / 'out' / 'curves.json').read_text())
    assert [curve['iterations'] for curve in curves] == [[0, 2, 4, 6]] * 2
    spreads = sorted(row['spread'] for row in rows[:9])  # the end of the curve is what the checkpoint holds
    assert curves[0]['layers'][rows[0]['layer']]['spread'][-1] == pytest.approx(spreads[4], rel=1e-3)
    assert (tmp_path / 'out' / 'curves.png').stat().st_size > 1000
    assert '0 of 18' in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run_tool('analysis/attention_vs_conv', checkpoint, checkpoint, '--out', tmp_path / 'b', '--prune', 'x.pth')
    assert '--prune needs exactly one checkpoint, but 2 are given' in capsys.readouterr().err


def test_pruning(run, data, tmp_path, capsys):
    """A network with a head that looks everywhere is written without it, and trains on as a smaller one."""
    folder = run('quadratic')
    checkpoint = torch.load(folder / 'iter_6.pth', weights_only=True)
    checkpoint['state_dict']['backbone.layers.1.attention.mixing.encoding.root'][4] = 1e-3
    torch.save(checkpoint, tmp_path / 'a.pth')
    run_tool(
        'analysis/attention_vs_conv',
        tmp_path / 'a.pth',
        '--out',
        tmp_path / 'out',
        '--images',
        '1',
        '--prune',
        tmp_path / 'pruned.pth',
    )
    said = capsys.readouterr().out
    assert f'--cfg-options model.backbone.num_heads="[9,8]" load_from={tmp_path}/pruned.pth' in said
    assert not (tmp_path / 'out' / 'curves.png').exists()  # there is no file of the hook
    options = ('model.backbone.num_heads=[9,8]', f'load_from={tmp_path}/pruned.pth', 'train_cfg.max_iters=1')
    run_tool('train', folder / 'quadratic.py', '--work-dir', tmp_path / 'on', options=options)
    assert len(read_centres(tmp_path / 'on' / 'attention_centres.jsonl')[1].popitem()[1][0]) == 8


def test_analysis_of_what_it_cannot_look_at(run, tmp_path):
    with pytest.raises(ValueError, match='has no RelativeSelfAttention2d'):
        run_tool('analysis/attention_vs_conv', run('resnet18') / 'iter_6.pth', '--out', tmp_path / 'a')
    with pytest.raises(ValueError, match=r'query=\(8, 0\) is not on the feature map of 8 x 8'):
        run_tool(
            'analysis/attention_vs_conv', run('quadratic') / 'iter_6.pth', '--out', tmp_path / 'b', '--query', '8', '0'
        )
    with pytest.raises(FileNotFoundError, match='AttentionCentreHook writes it'):
        read_centres(tmp_path / 'none.jsonl')
    (tmp_path / 'other.jsonl').write_text('{"iteration": 1}\n')
    with pytest.raises(ValueError, match='is not a file of AttentionCentreHook'):
        read_centres(tmp_path / 'other.jsonl')


def test_augmentation_follows_from_the_seed(data):
    dataset = Cifar10Classification(str(data), verify=False, pad=4, flip=0.5)
    plain = Cifar10Classification(str(data), verify=False)
    assert torch.equal(dataset[3]['inputs'], plain[3]['inputs'])  # without a seed: as it is
    versions = [dataset[SampleIndex(3, seed)]['inputs'] for seed in range(40)]
    assert torch.equal(versions[7], dataset[SampleIndex(3, 7)]['inputs'])
    assert len({version.numpy().tobytes() for version in versions}) > 30
    image = torch.nn.functional.pad(plain[3]['inputs'], (4,) * 4)
    windows = image.unfold(1, 32, 1).unfold(2, 32, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
    for version in versions:  # each is a window of the padded image, or its mirror image
        matches = [(windows == v).flatten(1).all(1).any() for v in (version, version.flip(-1))]
        assert any(matches) and version.dtype == torch.uint8
    assert torch.equal(plain[SampleIndex(3, 1)]['inputs'], plain[3]['inputs'])
    with pytest.raises(IndexError):
        dataset[len(dataset)]
    with pytest.raises(ValueError, match='pad=-1 is not a number of pixels'):
        Cifar10Classification(str(data), verify=False, pad=-1)


def test_accuracy():
    metric = ClassificationAccuracy(topk=(1, 2))
    scores = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.1, 0.2, 0.7], [1.0, 1.0, 1.0]])
    metric.process({}, [dict(scores=s, gt_label=label) for s, label in zip(scores, (0, 1, 0, 1), strict=True)])
    assert metric.compute_metrics(metric.results) == {'accuracy/top1': 25.0, 'accuracy/top2': 50.0}
    metric.process({}, [dict(scores=torch.full((3,), torch.nan), gt_label=0)])
    assert metric.compute_metrics(metric.results)['accuracy/top1'] == 20.0
    with pytest.raises(ValueError, match='has only 3 classes'):
        ClassificationAccuracy(topk=(5,)).process({}, [dict(scores=scores[0], gt_label=0)])
    with pytest.raises(ValueError, match='topk'):
        ClassificationAccuracy(topk=())


def test_classifier_without_classes():
    backbone = dict(type='SelfAttentionNet', channels=4, num_layers=1, num_heads=1, out_indices=(0,))
    model = ImageClassifier(backbone, in_channels=4, num_classes=3)
    assert 'gt_label' not in model(torch.randn(1, 3, 4, 4), mode='predict')[0]
    assert model(torch.randn(2, 3, 4, 4)).shape == (2, 3)
    with pytest.raises(ValueError, match="mode='x' is unknown"):
        model(torch.randn(1, 3, 4, 4), mode='x')
