"""Files of predictions: their folders and values, and test data without labels."""

import cv2
import numpy as np
import pytest
import torch
from helpers.runtime_case import run_tool, write_case
from helpers.tool_case import write_weights
from mmengine.structures import PixelData
from mmseg.datasets import CityscapesDataset
from mmseg.structures import SegDataSample

from mmseg_invattn.evaluation import CityscapesOfficialMetric, SegMetric, WritingIoUMetric
from mmseg_invattn.evaluation.prediction_files import PredictionFolder, label_values

CITYSCAPES = CityscapesDataset.METAINFO['classes']


def sample(path='img/a/0.png', label=True, value=1, **more) -> dict:
    made = SegDataSample(metainfo=dict(img_path=path, **more))
    made.pred_sem_seg = PixelData(data=torch.full((1, 4, 6), value))
    if label:
        made.gt_sem_seg = PixelData(data=torch.ones(1, 4, 6, dtype=torch.uint8))
    return made.to_dict()


def metric_of(kind, classes=('x', 'y'), root='img', **arguments):
    metric = kind(**arguments)
    metric.dataset_meta = dict(classes=classes)
    metric.prediction_files.root = root
    return metric


def value_in(path):
    values = np.unique(cv2.imread(str(path), -1))
    assert len(values) == 1
    return values[0]


@pytest.mark.parametrize('kind', [SegMetric, WritingIoUMetric])
def test_scores_and_files(tmp_path, kind):
    metric = metric_of(kind, output_dir=str(tmp_path))
    metric.process({}, [sample(), sample('img/b/0.png', value=0), sample('img/0.png')])
    assert metric.evaluate(3)['aAcc'] == pytest.approx(66.67)
    assert {str(path.relative_to(tmp_path)): value_in(path) for path in tmp_path.rglob('*.png')} == {
        'a/0.png': 1,
        'b/0.png': 0,
        '0.png': 1,
    }


@pytest.mark.parametrize('kind', [SegMetric, WritingIoUMetric])
def test_without_labels_there_are_no_scores(tmp_path, kind):
    with pytest.raises(ValueError, match=r'img/a/0.png has no label.*--out DIR'):
        metric_of(kind).process({}, [sample(label=False)])
    metric = metric_of(kind, output_dir=str(tmp_path))
    metric.process({}, [sample(label=False, reduce_zero_label=True)])
    assert metric.evaluate(1) == {} and value_in(tmp_path / 'a' / '0.png') == 2
    metric.process({}, [sample('img/1.png'), sample('img/2.png', label=False)])
    with pytest.raises(ValueError, match='1 of 2 images have labels'):
        metric.evaluate(2)


def test_format_only_writes_what_the_benchmark_takes(tmp_path):
    with pytest.raises(ValueError, match='format_only=True only writes predictions.*--out DIR'):
        SegMetric(format_only=True)
    metric = metric_of(SegMetric, CITYSCAPES, output_dir=str(tmp_path), format_only=True)
    metric.process({}, [sample('img/berlin/0.png', value=13)])
    assert metric.evaluate(1) == {} and value_in(tmp_path / 'berlin' / '0.png') == 26  # the label id of a car
    metric = metric_of(SegMetric, CITYSCAPES, output_dir=str(tmp_path / 'labelled'))
    metric.process({}, [sample('img/berlin/0.png', value=13)])
    assert value_in(tmp_path / 'labelled' / 'berlin' / '0.png') == 13  # as in the label files


def test_the_official_metric_without_labels(tmp_path):
    metric = metric_of(CityscapesOfficialMetric, CITYSCAPES, output_dir=str(tmp_path))
    metric.process({}, [sample('img/berlin/0.png', False, 13), sample('img/bonn/0.png', False, 0.0)])
    assert metric.evaluate(2) == {}
    assert value_in(tmp_path / 'berlin' / '0.png') == 26 and value_in(tmp_path / 'bonn' / '0.png') == 7
    with pytest.raises(ValueError, match='has no label.*output_dir of CityscapesOfficialMetric'):
        metric_of(CityscapesOfficialMetric).process({}, [sample(label=False)])


def test_names_and_values(tmp_path):
    files = PredictionFolder()  # a training script of one's own may not tell where the images lie
    files.write(tmp_path, 'a/0.png', b'one')
    files.write(tmp_path, 'a/0.png', b'again')
    with pytest.raises(ValueError, match='a/0.png and b/0.png have the same name'):
        files.write(tmp_path, 'b/0.png', b'two')
    assert PredictionFolder('/x/y').name_of('/x/z/0.jpg').as_posix() == 'z/0.png'
    assert PredictionFolder('s3://x').name_of('s3://x/y/0.5.jpg').as_posix() == 'y/0.5.png'
    many = label_values(np.array([[0, 300]]), 301, False)
    assert many.dtype == np.uint16 and many.max() == 300
    assert label_values(np.array([[255]]), 256, True).max() == 256 and label_values(many, 256, False).dtype == np.uint8


def test_a_split_without_labels(tmp_path):
    """IoUMetric, in two folders of data, one of which has the images of the other's names."""
    config = write_case(tmp_path)
    weights = write_weights(config, tmp_path / 'weights.pth')
    with open(config, 'a') as file:
        file.write("""
bare = dict(data, data_prefix=dict(img_path='images'), pipeline=test_pipeline, indices=2)
other = dict(bare, data_prefix=dict(img_path='labels'))
test_dataloader = dict(batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
                       dataset=dict(type='ConcatDataset', datasets=[bare, other]))
""")
    run_tool('test', config, weights, '--work-dir', tmp_path / 'work', '--out', tmp_path / 'out')
    assert sorted(str(path.relative_to(tmp_path / 'out')) for path in (tmp_path / 'out').rglob('*.png')) == [
        f'{folder}/{i}.png' for folder in ('images', 'labels') for i in (0, 1)
    ]
    log = next((tmp_path / 'work').glob('*/*.log')).read_text()
    assert (
        f'4 predictions written to {tmp_path / "out"}. There are no scores, because the test data have no labels' in log
    )
    with pytest.raises(ValueError, match='has no label.*--out DIR'):
        run_tool('test', config, weights, '--work-dir', tmp_path / 'work')


def test_metrics_that_drop_the_folder_are_refused(tmp_path):
    config = write_case(tmp_path)
    weights = write_weights(config, tmp_path / 'weights.pth')
    with open(config, 'a') as file:
        file.write("""
test_dataloader = dict(val_dataloader, dataset=dict(type='ConcatDataset', datasets=[
    dict(data, pipeline=test_pipeline), dict(data, pipeline=test_pipeline, data_prefix=dict(
        img_path='labels', seg_map_path='labels'))]))
test_evaluator = dict(type='CityscapesMetric', format_only=True, keep_results=True, output_dir='unused')
""")
    with pytest.raises(ValueError, match='have the same name, and CityscapesMetric names its files'):
        run_tool('test', config, weights, '--work-dir', tmp_path / 'work', '--out', tmp_path / 'out')
