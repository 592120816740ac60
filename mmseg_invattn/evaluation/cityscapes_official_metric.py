"""The official Cityscapes evaluation (https://github.com/mcordts/cityscapesScripts) as a metric."""

from __future__ import annotations

import contextlib
import copy
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official
from cityscapesscripts.helpers.labels import category2labels, labels, trainId2label
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from mmseg.registry import METRICS
from torch import Tensor

from ..wording import counted
from .prediction_files import PredictionFolder, png_of

LABEL_SUFFIX, ID_SUFFIX, INSTANCE_SUFFIX = 'labelTrainIds.png', 'labelIds.png', 'instanceIds.png'


@METRICS.register_module()
class CityscapesOfficialMetric(BaseMetric):
    """IoU and instance-weighted iIoU of classes and categories, by cityscapesscripts.

    It returns, in per cent with two decimals and under the prefix ``cityscapes``, the averages ``class_IoU``,
    ``class_iIoU``, ``category_IoU``, ``category_iIoU``, and ``IoU/<class>``, ``iIoU/<class>``,
    ``category_IoU/<category>``, ``category_iIoU/<category>``. iIoU exists only for classes with instances; a class that
    does not occur is NaN. The files ``*_labelIds.png`` and ``*_instanceIds.png``, which are part of Cityscapes, must be
    in the folder of each label file ``*_labelTrainIds.png``.

    Predictions of images without labels, such as those of the test split, are written to ``output_dir`` and not scored.

    MMEngine collects the predictions of all ranks, one for each sample, as it does the results of other metrics. So
    repeated samples are dropped, and the ranks need no shared folder. Rank 0 writes the predictions into a temporary
    folder, evaluates them, and deletes only that folder.

    Args:
        output_dir: Folder in which the predictions are kept too, with Cityscapes' label ids and in the sub-folder of
            their image, for a submission. It is never deleted.
        collect_device: ``'cpu'`` or ``'gpu'``, where MMEngine collects the results.
        prefix: Prefix of the names of the metrics.
    """

    default_prefix = 'cityscapes'

    def __init__(self, output_dir: str | None = None, collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.output_dir = output_dir
        self.prediction_files = PredictionFolder()
        self._id_of_class = _label_ids()

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Encode the prediction of each sample.

        Raises:
            FileNotFoundError: A ground truth file is missing.
            ValueError: The label file is not named as in Cityscapes, a predicted value is not a class, or there is
                neither a label nor an ``output_dir``.
        """
        for sample in data_samples:
            classes = sample['pred_sem_seg']['data'].squeeze(0).cpu()
            if classes.max() >= len(self._id_of_class):
                raise ValueError(
                    f'{sample["img_path"]}: the prediction holds class {int(classes.max())}, but '
                    f'Cityscapes has {len(self._id_of_class)}: set num_classes={len(self._id_of_class)}'
                )
            png = png_of(self._id_of_class[classes.long()].numpy())
            if self.output_dir is not None:
                self.prediction_files.write(self.output_dir, sample['img_path'], png)
            label = sample.get('seg_map_path')
            if label is None and self.output_dir is None:
                raise ValueError(
                    f'{sample["img_path"]} has no label, so its prediction cannot be scored: give --out DIR '
                    '(output_dir of CityscapesOfficialMetric) to write the predictions'
                )
            self.results.append((png, label and _ground_truth(label)))

    def compute_metrics(self, results: list[tuple[bytes, str | None]]) -> dict[str, float]:
        """The scores of all samples, (prediction as PNG, ground truth file) each.

        Raises:
            ValueError: The official evaluation refuses the files (the error has its message), or only some of the
                images have labels.
        """
        without = sum(truth is None for _, truth in results)
        if without == len(results):
            print_log(
                f'{counted(without, "prediction")} written to {self.output_dir} with the label ids of Cityscapes. '
                'There are no scores, because the test data have no labels',
                logger='current',
            )
            return {}
        if without:
            raise ValueError(
                f'only {len(results) - without} of {counted(len(results), "image")} have labels, and a score over them '
                'would look like one over all: test the images with labels and those without separately'
            )
        with tempfile.TemporaryDirectory(prefix='cityscapes-') as folder:
            predictions = []
            for number, (png, _) in enumerate(results):
                path = Path(folder, f'{number}_pred.png')
                path.write_bytes(png)
                predictions.append(str(path))
            scores = _official_scores(predictions, [str(truth) for _, truth in results], folder)
        metrics = dict(
            class_IoU=scores['averageScoreClasses'],
            class_iIoU=scores['averageScoreInstClasses'],
            category_IoU=scores['averageScoreCategories'],
            category_iIoU=scores['averageScoreInstCategories'],
        )
        for key, names, iou, instance_iou in (
            ('', _class_names(), scores['classScores'], scores['classInstScores']),
            ('category_', _category_names(), scores['categoryScores'], scores['categoryInstScores']),
        ):
            metrics |= {f'{key}IoU/{name}': iou[name] for name in names}
            metrics |= {f'{key}iIoU/{name}': instance_iou[name] for name, instances in names.items() if instances}
        return {name: round(100 * float(score), 2) for name, score in metrics.items()}


def _label_ids() -> Tensor:
    """Cityscapes' label id of each class, (19, ) uint8."""
    return torch.tensor([trainId2label[k].id for k in range(len(_class_names()))], dtype=torch.uint8)


def _class_names() -> dict[str, bool]:
    """The evaluated classes, and whether each has instances."""
    return {label.name: label.hasInstances for label in labels if not label.ignoreInEval}


def _category_names() -> dict[str, bool]:
    """The evaluated categories, and whether all classes of each have instances."""
    return {
        name: all(label.hasInstances for label in members if label.id >= 0)
        for name, members in category2labels.items()
        if not all(label.ignoreInEval for label in members)
    }


def _ground_truth(label_file: str) -> str:
    """The file of label ids in the folder of a label file; the file of instances must be there too."""
    if not label_file.endswith((LABEL_SUFFIX, ID_SUFFIX)):
        raise ValueError(
            f'{label_file}: the official evaluation needs label files whose names end in '
            f'{LABEL_SUFFIX} or {ID_SUFFIX}: use it for Cityscapes only, and SegMetric for other data'
        )
    ids = label_file.replace(LABEL_SUFFIX, ID_SUFFIX)
    for file in (ids, ids.replace(ID_SUFFIX, INSTANCE_SUFFIX)):
        if not Path(file).is_file():
            raise FileNotFoundError(
                f'{file}: the official evaluation needs this file in the folder of {label_file}; it is part '
                'of gtFine_trainvaltest.zip'
            )
    return ids


def _official_scores(predictions: list[str], truths: list[str], folder: str) -> dict:
    """The results of cityscapesscripts, with a copy of its settings, because its module shares one global object."""
    settings = copy.copy(official.args)
    settings.evalInstLevelScore, settings.evalPixelAccuracy = True, False
    settings.JSONOutput, settings.quiet, settings.predictionPath = False, True, folder
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            return official.evaluateImgLists(predictions, truths, settings)
    except SystemExit as error:  # cityscapesscripts refuses a file in this way
        raise ValueError(f'cityscapesscripts: {said.getvalue().strip()}') from error
