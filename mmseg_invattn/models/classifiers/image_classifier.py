"""Image classification with a segmentation backbone: mean of its last features over the pixels, then a linear map."""

from mmengine.model import BaseModel
from mmseg.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class ImageClassifier(BaseModel):
    """Backbone, global average, linear map; cross entropy.

    Args:
        backbone: config of a backbone; its last output is classified.
        in_channels: channels of that output.
        num_classes: classes.
        data_preprocessor: config of MMEngine's ``ImgDataPreprocessor`` or another one.
        init_cfg: as in every ``BaseModule``.
    """

    def __init__(
        self,
        backbone: dict,
        in_channels: int,
        num_classes: int,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(data_preprocessor, init_cfg)
        self.backbone = MODELS.build(backbone)
        self.classify = nn.Linear(in_channels, num_classes)

    def init_weights(self) -> None:
        if not self.is_init:
            nn.init.normal_(self.classify.weight, std=0.02)
            nn.init.zeros_(self.classify.bias)
        super().init_weights()

    def forward(
        self, inputs: Tensor, data_samples: Tensor | None = None, mode: str = 'tensor'
    ) -> Tensor | dict[str, Tensor] | list[dict]:
        """Logits, loss or predictions, as MMEngine's loops request them.

        Args:
            inputs: images, (B, 3, H, W), normalised.
            data_samples: their classes, (B,); needed for the loss, and for ``gt_label`` of predictions.
            mode: ``'tensor'`` (logits (B, classes)), ``'loss'`` or ``'predict'`` (one dict for each image: ``scores``,
                ``pred_label`` and, if known, ``gt_label``).

        Raises:
            ValueError: another mode.
        """
        logits = self.classify(self.backbone(inputs)[-1].mean((2, 3)))
        if mode == 'tensor':
            return logits
        if mode == 'loss':
            return dict(loss=nn.functional.cross_entropy(logits, data_samples))
        if mode != 'predict':
            raise ValueError(f"mode={mode!r} is unknown: choose one of 'tensor', 'loss', 'predict'")
        predictions = [dict(scores=scores, pred_label=int(scores.argmax())) for scores in logits.softmax(1)]
        for prediction, label in zip(predictions, () if data_samples is None else data_samples, strict=False):
            prediction['gt_label'] = int(label)
        return predictions
