"""One Cityscapes frame through the base config, IoUMetric and the official evaluation."""

from pathlib import Path

import numpy as np
import pytest
import torch
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official
from cityscapesscripts.helpers.labels import id2label, trainId2label
from helpers.checkout import ROOT
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import DATASETS, METRICS
from PIL import Image

from mmseg_invattn.datasets.checks import check_data_folders, check_dataset_files, make_loading_strict

BASE = ROOT / 'configs' / '_base_' / 'datasets' / 'cityscapes_512x1024.py'


@pytest.fixture(scope='module')
def frame(data_root):
    """The data set of the one frame, as the validation config loads it."""
    init_default_scope('mmseg')
    config = Config.fromfile(BASE)
    for split in ('train', 'val', 'test'):
        config[f'{split}_dataloader'].dataset.update(
            data_root=str(data_root / 'cityscapes_mini'),
            data_prefix=dict(img_path='leftImg8bit', seg_map_path='gtFine'),
        )
    check_data_folders(config)
    train = DATASETS.build(config.train_dataloader.dataset)
    assert train[0]['inputs'].shape[1] <= 512 and train[0]['inputs'].shape[2] <= 1024
    dataset = DATASETS.build(dict(config.val_dataloader.dataset, test_mode=True))
    make_loading_strict(dataset)
    assert check_dataset_files(dataset) == 1
    return dataset


@pytest.fixture(params=['perfect', 'corrupted'])
def prediction(frame, request):
    """A data sample with a prediction; the corrupted one calls half of the road building."""
    sample = frame[0]['data_samples']
    # The frame was scaled down after its train ids had been made: 77 of its 32768 pixels contradict its ids. The two
    # evaluations can only agree on one ground truth, so the train ids are derived from the ids here.
    ids = np.asarray(Image.open(sample.seg_map_path.replace('labelTrainIds', 'labelIds')))
    table = np.array([id2label[index].trainId % 256 for index in range(34)])
    label = torch.from_numpy(table[ids])[None]
    assert (label != sample.gt_sem_seg.data).float().mean() < 0.003
    sample.gt_sem_seg = PixelData(data=label)
    predicted = torch.where(label == 255, 0, label)
    if request.param == 'corrupted':
        road = (label == 0).nonzero()
        predicted[tuple(road[::2].T)] = 2
    sample.pred_sem_seg = PixelData(data=predicted)
    return request.param, sample


def _iou_metric(frame, sample) -> float:
    metric = METRICS.build(dict(type='IoUMetric', iou_metrics=['mIoU']))
    metric.dataset_meta = frame.metainfo
    metric.process({}, [sample.to_dict()])
    return metric.evaluate(1)['mIoU']


def _official_score(sample, folder: Path) -> float:
    ids = np.zeros(sample.pred_sem_seg.shape, np.uint8)
    for train_id in sample.pred_sem_seg.data.unique().tolist():
        ids[sample.pred_sem_seg.data[0].numpy() == train_id] = trainId2label[train_id].id
    path = folder / 'frankfurt_000000_000294_pred.png'
    Image.fromarray(ids).save(path)
    args = official.args
    args.predictionPath, args.JSONOutput, args.quiet = str(folder), False, True
    result = official.evaluateImgLists([str(path)], [sample.seg_map_path.replace('labelTrainIds', 'labelIds')], args)
    return 100 * result['averageScoreClasses']


def test_frame(frame):
    sample = frame[0]
    assert len(frame) == 1 and sample['inputs'].shape == (3, 1024, 2048)
    assert sample['data_samples'].gt_sem_seg.shape == (128, 256)
    assert sample['data_samples'].ori_shape == (128, 256)


def test_both_evaluations(frame, prediction, tmp_path):
    kind, sample = prediction
    ours, theirs = _iou_metric(frame, sample), _official_score(sample, tmp_path)
    assert ours == pytest.approx(theirs, abs=0.01)  # IoUMetric rounds to two decimals
    assert ours == pytest.approx(100) if kind == 'perfect' else 50 < ours < 99


def test_cityscapes_metric(prediction, tmp_path):
    kind, sample = prediction
    # Without keep_results the metric deletes its folder when it is collected.
    metric = METRICS.build(dict(type='CityscapesMetric', output_dir=str(tmp_path / 'results'), keep_results=True))
    metric.process({}, [sample.to_dict()])
    score = metric.evaluate(1)['averageScoreCategories']
    assert score == pytest.approx(1) if kind == 'perfect' else 0.3 < score < 0.99
    assert len(list((tmp_path / 'results').iterdir())) == 1
