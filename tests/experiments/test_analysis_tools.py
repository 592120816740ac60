"""The tools of tools/analysis, each run on a tiny data set."""

import csv
import hashlib
import json
import xml.etree.ElementTree as ElementTree

import cv2
import numpy as np
import pytest
import torch
from helpers.runtime_case import RUNS, run_tool
from helpers.tool_case import call_tool, write_tool_case
from mmengine.config import Config

from mmseg_invattn.engine.inference import init_model
from mmseg_invattn.engine.scalars import Curve, last_and_best, read_run, read_runs
from mmseg_invattn.evaluation.confusion import class_iou, read_confusion, write_confusion


@pytest.fixture(scope='module')
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp('case')
    return write_tool_case(folder)


@pytest.fixture(scope='module')
def run(case, tmp_path_factory):
    """Work directory of a run that validates by SegMetric, logs to TensorBoard too, and averages its weights."""
    folder = tmp_path_factory.mktemp('run')
    config = folder / 'config.py'
    config.write_text(f"""
_base_ = '{case[0]}'
val_evaluator = dict(_delete_=True, type='SegMetric')
train_cfg = dict(max_iters=4, val_interval=2)
default_hooks = dict(checkpoint=dict(interval=4))
custom_hooks = [dict(type='EMAHook', momentum=0.5)]
visualizer = dict(vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')])
""")
    run_tool('train', config, '--work-dir', folder / 'work')
    return folder / 'work'


def test_confusion_matrix_of_a_model(case, tmp_path):
    name = f'run{next(RUNS)}'
    call_tool(
        'analysis/confusion_matrix',
        *case,
        '--out',
        tmp_path / 'out',
        '--work-dir',
        tmp_path / 'work',
        '--cfg-options',
        f'experiment_name={name}',
        f'visualizer.name={name}',
    )
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == [
        'confusion_matrix.csv',
        'confusion_matrix.png',
        'confusion_matrix_rows.csv',
    ]
    matrix, classes = read_confusion(tmp_path / 'out' / 'confusion_matrix.csv')
    assert classes == ['a', 'b', 'c'] and matrix.sum() == 4 * 28 * 28
    run_tool('test', *case, '--work-dir', tmp_path / 'test')
    (path,) = (tmp_path / 'test').glob('*/*.json')
    assert json.loads(path.read_text())['mIoU'] == pytest.approx(100 * np.nanmean(class_iou(matrix)), abs=0.0051)
    with open(tmp_path / 'out' / 'confusion_matrix_rows.csv', newline='') as stream:
        rows = [[float(share) for share in row[1:]] for row in list(csv.reader(stream))[1:]]
    np.testing.assert_allclose(np.sum(rows, 1), 100, atol=0.01)
    assert cv2.imread(str(tmp_path / 'out' / 'confusion_matrix.png')) is not None
    with pytest.raises(FileExistsError, match='confusion_matrix.csv and 2 more files'):
        call_tool('analysis/confusion_matrix', *case, '--out', tmp_path / 'out')


@pytest.mark.parametrize('num_classes', [2, 31])
def test_confusion_matrix_of_a_file(tmp_path, num_classes):
    matrix = np.random.default_rng(0).integers(0, 10**6, (num_classes, num_classes))
    matrix[1] = 0  # a class that is not there
    write_confusion(tmp_path / 'matrix.csv', matrix, [f'class {k}' for k in range(num_classes)])
    arguments = ['analysis/confusion_matrix', tmp_path / 'matrix.csv', '--out', tmp_path / 'out', '--format', 'svg']
    call_tool(*arguments)
    call_tool(*arguments, '--counts', '--overwrite')
    drawn = ElementTree.parse(tmp_path / 'out' / 'confusion_matrix.svg').getroot()
    texts = {''.join(element.itertext()).strip() for element in drawn.iter('{http://www.w3.org/2000/svg}text')}
    assert {f'class {num_classes - 1}', 'ground truth', 'pixels'} <= texts
    assert (read_confusion(tmp_path / 'out' / 'confusion_matrix.csv')[0] == matrix).all()
    for given in ([tmp_path / 'matrix.csv', 'x.pth'], ['config.py']):
        with pytest.raises(SystemExit):
            call_tool('analysis/confusion_matrix', *given, '--out', tmp_path)


def test_browse_dataset(case, tmp_path):
    call_tool('analysis/browse_dataset', case[0], '--out', tmp_path / 'a', '--num', 3)
    call_tool('analysis/browse_dataset', case[0], '--out', tmp_path / 'b', '--num', 3)
    call_tool('analysis/browse_dataset', case[0], '--out', tmp_path / 'c', '--num', 3, '--seed', 1)
    pictures = [[cv2.imread(str(path)) for path in sorted((tmp_path / name).iterdir())] for name in 'abc']
    assert all(len(found) == 3 for found in pictures)
    for one, other in zip(*pictures[:2], strict=True):
        assert (one == other).all() and one.shape[0] == 24 and one.shape[1] > 48  # crop, painted crop, legend
    assert any(one.shape != other.shape or (one != other).any() for one, other in zip(*pictures[::2], strict=True))
    with pytest.raises(FileExistsError, match='0000.png and 2 more'):
        call_tool('analysis/browse_dataset', case[0], '--out', tmp_path / 'a', '--num', 3)
    call_tool('analysis/browse_dataset', case[0], '--out', tmp_path / 'val', '--num', 2, '--split', 'val')
    assert cv2.imread(str(tmp_path / 'val' / '0001.png')).shape[0] == 28
    with pytest.raises(ValueError, match='no test_dataloader'):
        call_tool(
            'analysis/browse_dataset',
            case[0],
            '--out',
            tmp_path / 'd',
            '--split',
            'test',
            '--cfg-options',
            'test_dataloader=None',
        )


def test_print_config(case, tmp_path, capsys):
    out = tmp_path / 'flat.py'
    call_tool('analysis/print_config', case[0], '--out', out, '--cfg-options', 'train_cfg.max_iters=7')
    assert 'max_iters=7' in capsys.readouterr().out
    flat, cfg = Config.fromfile(out), Config.fromfile(case[0])
    assert '_base_' not in out.read_text() and flat.train_cfg.max_iters == 7
    assert flat.model == cfg.model and flat.default_hooks == cfg.default_hooks
    with pytest.raises(FileExistsError, match='flat.py would be replaced'):
        call_tool('analysis/print_config', case[0], '--out', out)
    with pytest.raises(SystemExit):
        call_tool('analysis/print_config', case[0], '--out', tmp_path / 'flat.txt')


def test_scalars_of_a_run_and_their_curves(run, tmp_path, capsys):
    call_tool('analysis/analyze_logs', run, '--out', tmp_path / 'curves.png')
    said = capsys.readouterr().out
    assert '| work ' in said and '| loss ' in said and '| mIoU ' in said
    assert cv2.imread(str(tmp_path / 'curves.png')) is not None
    curves = read_run(run).curves
    assert curves['loss'].steps == [1, 2, 3, 4] and curves['mIoU'].steps == curves['IoU/a'].steps == [2, 4]
    with pytest.raises(ValueError, match='no run has mDice; existing scalars: .*IoU/a'):
        call_tool('analysis/analyze_logs', run, '--keys', 'mDice')
    with pytest.raises(FileNotFoundError, match='there is no vis_data/scalars.json'):
        call_tool('analysis/analyze_logs', tmp_path)


def write_log(path, *entries):
    path.mkdir(parents=True)
    (path / 'scalars.json').write_text('\n'.join(json.dumps(entry) for entry in entries) + '\n')


def test_resumed_runs_and_runs_of_one_name(tmp_path):
    write_log(
        tmp_path / 'a' / 'run' / '1' / 'vis_data',
        dict(loss=3.0, step=1),
        dict(loss=2.0, step=2),
        dict(loss=9.0, step=3),
    )
    write_log(tmp_path / 'a' / 'run' / '2' / 'vis_data', dict(loss=1.0, step=3), dict(loss=float('nan'), step=4))
    write_log(tmp_path / 'b' / 'run' / '1' / 'vis_data', dict(loss=4.0, lr=0.1, step=1))
    with open(tmp_path / 'b' / 'run' / '1' / 'vis_data' / 'scalars.json', 'a') as stream:
        stream.write('{"loss": 5.0, "st')  # killed while it wrote
    first, second = read_runs([tmp_path / 'a' / 'run', tmp_path / 'b' / 'run'])
    assert (first.name, second.name) == ('a/run', 'b/run') and second.curves['loss'].values == [4.0]
    assert first.curves['loss'].steps == [1, 2, 3, 4] and first.curves['loss'].values[:3] == [3.0, 2.0, 1.0]
    assert last_and_best('loss', first.curves['loss']) == ((3, 1.0), (3, 1.0))
    assert last_and_best('mIoU', Curve([1, 2, 3], [5.0, 7.0, 6.0])) == ((3, 6.0), (2, 7.0))
    call_tool(
        'analysis/analyze_logs',
        tmp_path / 'a' / 'run',
        tmp_path / 'b' / 'run',
        '--keys',
        'loss',
        'lr',
        '--out',
        tmp_path / 'curves.svg',
    )
    drawn = (tmp_path / 'curves.svg').read_text()
    assert all(f'>{text}<' in drawn for text in ('a/run', 'b/run', 'loss', 'lr'))
    with pytest.raises(ValueError, match='the same run is given twice'):
        read_runs([tmp_path / 'a' / 'run'] * 2)
    for name in ('kept.json', 'kept.txt', 'other.json'):
        (tmp_path / name).write_text('{"loss": 1.0, "step": 1}\n')
    named = [
        [run.name for run in read_runs([tmp_path / 'kept.json', tmp_path / name])]
        for name in ('kept.txt', 'other.json')
    ]
    assert named == [['kept.json', 'kept.txt'], ['kept', 'other']]
    (tmp_path / 'bad.json').write_text('no json\n{"step": 1}\n')
    with pytest.raises(ValueError, match='bad.json, line 1'):
        read_run(tmp_path / 'bad.json')


def tensorboard_events(work_dir):
    event_accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    (path,) = work_dir.glob('*/vis_data/events.out.tfevents.*')
    events = event_accumulator.EventAccumulator(str(path.parent))
    events.Reload()
    return events


def test_tensorboard_by_an_option(case, tmp_path):
    run_tool(
        'train',
        case[0],
        '--work-dir',
        tmp_path,
        options=('visualizer.vis_backends.0.type=TensorboardVisBackend', 'train_cfg.max_iters=1'),
    )
    assert [event.step for event in tensorboard_events(tmp_path).Scalars('loss')] == [1]


def test_tensorboard_gets_the_scalars(run):
    events = tensorboard_events(run)
    curves = read_run(run).curves
    for key in ('loss', 'mIoU', 'IoU/b'):
        found = events.Scalars(key)
        assert [event.step for event in found] == curves[key].steps
        assert [event.value for event in found] == pytest.approx(curves[key].values)


def test_publish_model(run, case, tmp_path):
    source = tmp_path / 'depth.pth.p.pth'  # only the suffix is removed from the name
    source.write_bytes((run / 'iter_4.pth').read_bytes())
    checkpoint = torch.load(source, weights_only=True)
    for which, expected in (
        ('averaged', checkpoint['state_dict']),
        (
            'trained',
            {name.removeprefix('module.'): w for name, w in checkpoint['ema_state_dict'].items() if name != 'steps'},
        ),
    ):
        call_tool('analysis/publish_model', source, '--out', tmp_path / which, '--weights', which)
        (path,) = (tmp_path / which).iterdir()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        assert path.name == f'depth.pth.p-{digest}.pth' and path.stat().st_size < source.stat().st_size
        published = torch.load(path, weights_only=True)
        assert published.keys() == {'state_dict', 'meta'} and 'cfg' not in published['meta']
        assert published['state_dict'].keys() == checkpoint['state_dict'].keys()
        for name, value in expected.items():
            assert torch.equal(published['state_dict'][name], value)
        assert init_model(case[0], str(path), 'cpu').dataset_meta['classes'] == ('a', 'b', 'c')
    averaged, trained = (next((tmp_path / which).iterdir()) for which in ('averaged', 'trained'))
    assert averaged.name != trained.name
    call_tool('analysis/publish_model', source, '--out', tmp_path / 'averaged', '--overwrite')
    assert list((tmp_path / 'averaged').iterdir()) == [averaged]  # by default what a test uses; the same hash
    with pytest.raises(FileExistsError, match='would be replaced'):
        call_tool('analysis/publish_model', source, '--out', tmp_path / 'averaged')
    with pytest.raises(ValueError, match='no averaged weights'):
        call_tool('analysis/publish_model', case[1], '--out', tmp_path, '--weights', 'averaged')
    torch.hub.load_state_dict_from_url(averaged.as_uri(), str(tmp_path / 'hub'), check_hash=True, progress=False)
