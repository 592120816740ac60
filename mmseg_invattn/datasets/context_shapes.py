"""The demo data of tools/dataset_converters/context_shapes.py: only distant pixels reveal the class of a shape."""

import json
import os.path as osp
from typing import Any

from mmseg.registry import DATASETS

from .checked_dataset import CheckedSegDataset

# The colour of a class is that of its marker.
PALETTE = [
    [0, 0, 0],
    [220, 40, 40],
    [40, 90, 230],
    [40, 190, 60],
    [235, 205, 30],
    [190, 60, 200],
    [40, 200, 210],
    [240, 130, 20],
    [140, 90, 50],
]


def class_names(num_classes: int) -> tuple[str, ...]:
    """``('background', 'shape_a', 'shape_b', ...)``.

    Args:
        num_classes: 2 to 9, background included.

    Raises:
        ValueError: ``num_classes`` is out of range.
    """
    if not 2 <= num_classes <= len(PALETTE):
        raise ValueError(
            f'num_classes is {num_classes}, but it must lie between 2 (background and one kind of shape) '
            f'and {len(PALETTE)}, because every class needs a colour. Fix: choose a number in that range.'
        )
    return ('background', *(f'shape_{chr(ord("a") + index)}' for index in range(num_classes - 1)))


@DATASETS.register_module()
class ContextShapesDataset(CheckedSegDataset):
    """Shapes whose class is the colour of a marker on the far side of the image.

    Layout: ``images/{train,val}/NNNN.png``, ``annotations/{train,val}/NNNN.png`` and ``meta.json``.

    Args:
        num_classes: Number of classes the data were made with, background included.
        img_suffix: Ending of the image files.
        seg_map_suffix: Ending of the label files.
        metainfo: Overrides the classes and the palette that follow from ``num_classes``.
        **kwargs: Arguments of ``BaseSegDataset``.

    Raises:
        ValueError: The data under ``data_root`` were made with another number of classes.
    """

    METAINFO = {'classes': class_names(3), 'palette': PALETTE[:3]}

    def __init__(
        self,
        num_classes: int = 3,
        img_suffix: str = '.png',
        seg_map_suffix: str = '.png',
        metainfo: dict | None = None,
        **kwargs: Any,
    ) -> None:
        self.num_classes = num_classes
        own = {'classes': class_names(num_classes), 'palette': PALETTE[:num_classes]}
        super().__init__(
            img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, metainfo={**own, **(metainfo or {})}, **kwargs
        )

    @classmethod
    def get_label_map(cls, new_classes: tuple[str, ...] | None = None) -> dict | None:
        """None for the generator's own classes, because its labels always count from 0."""
        if new_classes is not None and 2 <= len(new_classes) <= len(PALETTE):
            if tuple(new_classes) == class_names(len(new_classes)):
                return None
        return super().get_label_map(new_classes)

    def load_data_list(self) -> list[dict]:
        """Compare ``num_classes`` with ``meta.json``, if that exists, and list the files."""
        meta_file = osp.join(self.data_root or '', 'meta.json')
        if osp.isfile(meta_file):
            with open(meta_file, encoding='utf-8') as file:
                made_with = json.load(file)['arguments']['num_classes']
            if made_with != self.num_classes:
                raise ValueError(
                    f'{meta_file} says num_classes={made_with}, the data set is configured with '
                    f'num_classes={self.num_classes}. Both must agree. Fix: set num_classes={made_with} '
                    'in the config, or make the data again with --num-classes and --overwrite.'
                )
        return super().load_data_list()
