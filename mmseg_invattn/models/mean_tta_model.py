"""Test-time augmentation for heads of one channel as well as of several."""

from __future__ import annotations

import torch
from mmengine.structures import PixelData
from mmseg.models.segmentors import SegTTAModel
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample


@MODELS.register_module()
class MeanTTAModel(SegTTAModel):
    """``SegTTAModel``, which averages probabilities, for one-channel heads too.

    MMSegmentation's takes what a head of one channel predicts for logits. They are probabilities already: a second
    sigmoid lifts all of them above one half, and every pixel becomes foreground.
    """

    def merge_preds(self, data_samples_list: list[list[SegDataSample]]) -> list[SegDataSample]:
        """One prediction of those of every augmentation of an image."""
        predictions = super().merge_preds(data_samples_list)
        if self.module.out_channels == 1:
            for merged, samples in zip(predictions, data_samples_list, strict=True):
                # the last of the samples is the merged one
                probability_1HW = torch.stack([sample.seg_logits.data for sample in samples]).mean(0)
                chosen_1HW = (probability_1HW > self.module.decode_head.threshold).to(probability_1HW)
                merged.set_data(dict(pred_sem_seg=PixelData(data=chosen_1HW)))
        return predictions
