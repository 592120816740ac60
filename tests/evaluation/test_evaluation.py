"""Both metrics against a count by hand, against each other, and on two processes."""

import csv
import json
import math
import tempfile
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official
from helpers import metric_ranks
from helpers.two_processes import in_two_processes
from mmengine.structures import PixelData
from mmseg.evaluation import IoUMetric
from mmseg.registry import METRICS
from mmseg.structures import SegDataSample
from mmseg.utils import get_classes

from mmseg_invattn.evaluation import CityscapesOfficialMetric, SegMetric
from mmseg_invattn.evaluation.confusion import read_confusion, row_shares, write_confusion


def random_samples(num_classes: int, count: int = 3) -> list[dict]:
    """uint8 labels with ignored pixels and without class 7, and predictions that are right in half of the pixels."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for index in range(count):
        label = torch.randint(num_classes, (1, 40, 50), generator=generator, dtype=torch.uint8)
        label[label == 7] = 255
        guess = torch.randint(num_classes, (1, 40, 50), generator=generator)
        prediction = torch.where((torch.rand(label.shape, generator=generator) < 0.5) & (label != 255), label, guess)
        sample = SegDataSample(metainfo=dict(img_path=f'{index}.png', seg_map_path=f'{index}_label.png'))
        sample.gt_sem_seg, sample.pred_sem_seg = PixelData(data=label), PixelData(data=prediction)
        samples.append(sample.to_dict())
    return samples


def evaluated(metric, samples: list[dict], classes) -> dict:
    metric.dataset_meta = dict(classes=classes)
    metric.process({}, samples)
    return metric.evaluate(len(samples))


def counted_by_hand(samples: list[dict]) -> Counter:
    pairs = Counter()
    for sample in samples:
        truth, prediction = (sample[name]['data'].flatten().tolist() for name in ('gt_sem_seg', 'pred_sem_seg'))
        pairs.update((t, p) for t, p in zip(truth, prediction, strict=True) if t != 255)
    return pairs


def test_150_classes_against_a_count_by_hand(tmp_path):
    classes, samples = [f'class {k}' for k in range(150)], random_samples(150)
    metric = METRICS.build(dict(type='SegMetric', confusion_file=str(tmp_path / 'matrix.npy')))
    metrics, pairs = evaluated(metric, samples, classes), counted_by_hand(samples)
    assert metric.confusion_matrix.dtype == np.int64
    assert {(i, j): n for (i, j), n in np.ndenumerate(metric.confusion_matrix) if n} == pairs
    ious, accuracies = [], []
    for k in range(150):
        right, truth = pairs[k, k], sum(pairs[k, j] for j in range(150))
        union = truth + sum(pairs[i, k] for i in range(150)) - right
        ious.append(right / union)
        accuracies += [right / truth] if truth else []
        assert metrics[f'IoU/class {k}'] == round(100 * right / union, 2)
    assert metrics['IoU/class 7'] == 0 and len(accuracies) == 149  # predicted, but never there
    assert metrics['mIoU'] == pytest.approx(100 * np.mean(ious), abs=0.0051)
    assert metrics['mAcc'] == pytest.approx(100 * np.mean(accuracies), abs=0.0051)
    right = sum(pairs[k, k] for k in range(150))
    assert metrics['aAcc'] == pytest.approx(100 * right / sum(pairs.values()), abs=0.0051)
    assert (np.load(tmp_path / 'matrix.npy') == metric.confusion_matrix).all()


@pytest.mark.parametrize('arguments', [{}, dict(nan_to_num=0), dict(iou_metrics=['mIoU', 'mDice', 'mFscore'])])
def test_what_iou_metric_returns_stays(arguments):
    samples, classes = random_samples(5), list('abcdefgh')
    ours, theirs = (evaluated(kind(**arguments), samples, classes) for kind in (SegMetric, IoUMetric))
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs)
    absent = ours['IoU/h']
    assert absent == 0 if arguments.get('nan_to_num') == 0 else math.isnan(absent)
    assert sorted(set(ours) - set(theirs)) == [f'IoU/{name}' for name in classes]


def test_values_that_are_no_class_are_named():
    (sample,) = random_samples(5, 1)
    sample['gt_sem_seg']['data'][0, 0, :3] = 40
    metric = SegMetric()
    metric.dataset_meta = dict(classes=list('abcde'))
    with pytest.raises(ValueError, match='0_label.png: the ground truth holds 40 in 3 pixels, but the 5 classes'):
        metric.process({}, [sample])
    with pytest.raises(ValueError, match=r'matrix.txt: a confusion matrix is written as .npy or .csv'):
        SegMetric(confusion_file='matrix.txt')


def test_confusion_files_come_back(tmp_path):
    matrix, names = np.array([[3, 1], [0, 0]]), ['a, b', 'c']
    for suffix, expected in (('.csv', names), ('.npy', ['0', '1'])):
        write_confusion(tmp_path / f'm{suffix}', matrix, names)
        read, read_names = read_confusion(tmp_path / f'm{suffix}')
        assert (read == matrix).all() and read.dtype == np.int64 and read_names == expected
    np.testing.assert_array_equal(row_shares(matrix), [[0.75, 0.25], [np.nan, np.nan]])
    np.save(tmp_path / 'wrong.npy', np.zeros((2, 3), int))
    (tmp_path / 'wrong.csv').write_text('x,a\na,many\n')
    for name in ('wrong.npy', 'wrong.csv'):
        with pytest.raises(ValueError, match=f'{name}: .*confusion matrix'):
            read_confusion(tmp_path / name)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp('ranks')
    metric_ranks.write_samples(path)
    return path


def test_both_metrics_agree_with_each_other_and_with_a_count(folder):
    metrics, matrix = metric_ranks.evaluate(folder, list(range(metric_ranks.COUNT)))
    pairs = counted_by_hand([metric_ranks.sample(folder, i) for i in range(metric_ranks.COUNT)])
    assert {(i, j): matrix[i][j] for i, j in product(range(19), repeat=2) if matrix[i][j]} == pairs
    assert metrics['cityscapes/class_IoU'] == pytest.approx(metrics['mIoU'], abs=0.0101)
    for k, name in enumerate(get_classes('cityscapes')):
        iou = pairs[k, k] / (sum(pairs[k, j] + pairs[j, k] for j in range(19)) - pairs[k, k])
        assert metrics[f'IoU/{name}'] == metrics[f'cityscapes/IoU/{name}'] == round(100 * iou, 2)
    # human = person and rider, classes 11 and 12
    both, others = (11, 12), [k for k in range(19) if k not in (11, 12)]
    right = sum(pairs[i, j] for i in both for j in both)
    missed, wrong = sum(pairs[i, j] for i in both for j in others), sum(pairs[j, i] for i in both for j in others)
    assert metrics['cityscapes/category_IoU/human'] == round(100 * right / (right + missed + wrong), 2)
    assert 0 < metrics['cityscapes/class_iIoU'] < 100 and 0 < metrics['cityscapes/category_iIoU'] < 100
    assert {name.split('/')[-1] for name in metrics if '/iIoU/' in name} == {
        'person',
        'rider',
        'car',
        'truck',
        'bus',
        'train',
        'motorcycle',
        'bicycle',
    }


def test_two_processes_evaluate_like_one_and_leave_no_folder(folder):
    in_two_processes(metric_ranks.work, folder)
    one = metric_ranks.evaluate(folder, list(range(metric_ranks.COUNT)))
    for rank in (0, 1):  # 6 results were collected, and 5 count
        assert json.loads((folder / f'rank{rank}.json').read_text()) == [one[0], one[1]]
    with open(folder / 'matrix.csv', newline='') as stream:
        assert [[int(n) for n in row[1:]] for row in list(csv.reader(stream))[1:]] == one[1]


def test_only_the_temporary_folder_is_deleted(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'temp'))
    (tmp_path / 'temp').mkdir()
    kept = tmp_path / 'kept'
    kept.mkdir()
    (kept / 'mine.txt').write_text('mine')
    metric = CityscapesOfficialMetric(output_dir=str(kept))
    metric.process({}, [metric_ranks.sample(folder, 0)])
    before = dict(vars(official.args))
    metric.evaluate(1)
    del metric
    assert vars(official.args) == before and not list((tmp_path / 'temp').iterdir())
    assert sorted(path.name for path in kept.iterdir()) == ['0_leftImg8bit.png', 'mine.txt']


def test_files_that_the_official_evaluation_cannot_use(folder, tmp_path):
    metric, sample = CityscapesOfficialMetric(), metric_ranks.sample(folder, 0)
    with pytest.raises(FileNotFoundError, match='x_labelIds.png: the official evaluation needs'):
        metric.process({}, [dict(sample, seg_map_path=str(tmp_path / 'x_labelTrainIds.png'))])
    with pytest.raises(ValueError, match='label.png: the official evaluation needs label files whose names'):
        metric.process({}, [dict(sample, seg_map_path='label.png')])
    metric.process({}, [dict(sample, pred_sem_seg=dict(data=torch.zeros(1, 8, 8, dtype=torch.int64)))])
    with pytest.raises(ValueError, match='cityscapesscripts: ERROR: Image widths'):
        metric.evaluate(1)
    with pytest.raises(ValueError, match='holds class 19, but Cityscapes has 19'):
        metric.process({}, [dict(sample, pred_sem_seg=dict(data=torch.full((1, 16, 32), 19)))])


def test_one_real_frame(data_root):
    gt = data_root / 'cityscapes_mini' / 'gtFine' / 'frankfurt_000000_000294_gtFine_labelTrainIds.png'
    ids = np.asarray(metric_ranks.Image.open(str(gt).replace('labelTrainIds', 'labelIds')))
    label = np.array([metric_ranks.id2label[i].trainId % 256 for i in range(34)])[ids]
    prediction = np.where(label == 255, 0, label)
    prediction[:, ::3] = 2
    sample = SegDataSample(metainfo=dict(img_path='frame.png', seg_map_path=str(gt)))
    sample.gt_sem_seg = PixelData(data=torch.from_numpy(label)[None])
    sample.pred_sem_seg = PixelData(data=torch.from_numpy(prediction)[None])
    seg, scores = (
        evaluated(metric, [sample.to_dict()], get_classes('cityscapes'))
        for metric in (SegMetric(), CityscapesOfficialMetric())
    )
    assert scores['cityscapes/class_IoU'] == pytest.approx(seg['mIoU'], abs=0.0101) and 40 < seg['mIoU'] < 90
    assert scores['cityscapes/iIoU/car'] > 0 and Path(gt).is_file()
