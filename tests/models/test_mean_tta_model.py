"""Test-time augmentation averages probabilities, of one channel and of several."""

import pytest
import torch
from helpers.tiny_segmentor import build_segmentor
from mmengine.structures import PixelData
from mmseg.models.segmentors import SegTTAModel
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseg_invattn.models import MeanTTAModel


def samples_of(*scores: Tensor) -> list[SegDataSample]:
    made = []
    for score in scores:
        sample = SegDataSample(metainfo=dict(img_path='0.png'))
        sample.seg_logits = PixelData(data=score)
        made.append(sample)
    return made


@pytest.fixture
def module():
    return build_segmentor()


def test_one_channel(module):
    module.out_channels, module.decode_head.threshold = 1, 0.3
    first, second = torch.tensor([[[0.1, 0.5, 0.2, 0.4]]]), torch.tensor([[[0.2, 0.2, 0.3, 0.1]]])
    (merged,) = MeanTTAModel(module=module).merge_preds([samples_of(first, second)])
    assert merged.pred_sem_seg.data.tolist() == [[[0, 1, 0, 0]]] and merged.img_path == '0.png'


def test_several_channels_are_those_of_mmseg(module):
    scores = [torch.randn(3, 4, 5) for _ in range(3)]
    (ours,), (theirs,) = (
        kind(module=module).merge_preds([samples_of(*scores)]) for kind in (MeanTTAModel, SegTTAModel)
    )
    assert torch.equal(ours.pred_sem_seg.data, theirs.pred_sem_seg.data)
