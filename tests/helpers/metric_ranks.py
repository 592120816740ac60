"""Evaluates random Cityscapes-like samples by both metrics, in one process or spread over two."""

import json
import os
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from cityscapesscripts.helpers.labels import id2label, labels
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from PIL import Image

from mmseg_invattn.evaluation import CityscapesOfficialMetric, SegMetric  # first: mmseg.utils needs compiled mmcv ops

from mmseg.utils import get_classes  # isort: skip

COUNT = 5  # odd: of two ranks one repeats a sample
IDS = [label.id for label in labels if label.id >= 0]


def write_samples(folder: Path) -> None:
    """Random label ids, train ids and instances, and random predictions of classes, of COUNT images."""
    rng = np.random.default_rng(0)
    for index in range(COUNT):
        ids = rng.choice(IDS, (16, 32)).astype(np.uint8)
        train_ids = np.array([id2label[i].trainId % 256 for i in range(34)], np.uint8)[ids]
        has_instances = np.array([id2label[i].hasInstances for i in range(34)])[ids]
        instances = np.where(has_instances, ids * np.int32(1000) + rng.integers(1, 3, ids.shape), ids).astype(np.uint16)
        prediction = np.where(
            (rng.random(ids.shape) < 0.5) & (train_ids < 19), train_ids, rng.integers(0, 19, ids.shape)
        )
        for name, array in (('labelIds', ids), ('labelTrainIds', train_ids), ('instanceIds', instances)):
            Image.fromarray(array).save(folder / f'{index}_gtFine_{name}.png')
        np.save(folder / f'{index}.npy', prediction)


def sample(folder: Path, index: int) -> dict:
    """A data sample with prediction and ground truth, as MMEngine hands it to a metric."""
    label = folder / f'{index}_gtFine_labelTrainIds.png'
    result = SegDataSample(metainfo=dict(img_path=f'{index}_leftImg8bit.png', seg_map_path=str(label)))
    result.gt_sem_seg = PixelData(data=torch.from_numpy(np.asarray(Image.open(label)).copy())[None])
    result.pred_sem_seg = PixelData(data=torch.from_numpy(np.load(folder / f'{index}.npy'))[None])
    return result.to_dict()


def evaluate(folder: Path, indices: list[int], **arguments: object) -> tuple[dict, list]:
    """Metrics of both, and SegMetric's confusion matrix."""
    seg, official = SegMetric(**arguments), CityscapesOfficialMetric()
    for metric in (seg, official):
        metric.dataset_meta = dict(classes=get_classes('cityscapes'))
        for index in indices:
            metric.process({}, [sample(folder, index)])
    metrics = seg.evaluate(COUNT) | official.evaluate(COUNT)
    return {name: float(value) for name, value in metrics.items()}, seg.confusion_matrix.tolist()


def work(rank: int, folder: Path) -> None:
    """One of two processes; each writes its metrics and the confusion matrix."""
    os.chdir(folder)  # MMEngine collects results below the current folder
    dist.init_process_group('gloo', init_method=f'file://{folder}/group', rank=rank, world_size=2)
    metrics, matrix = evaluate(
        folder, [(2 * i + rank) % COUNT for i in range(-(-COUNT // 2))], confusion_file='matrix.csv'
    )
    Path(f'rank{rank}.json').write_text(json.dumps([metrics, matrix]))
    dist.barrier()
    dist.destroy_process_group()
