"""A segmentation data set that raises an error at once if its folders are missing or empty."""

from typing import Any

import mmengine.fileio as fileio
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from .checks import IMAGE_SUFFIXES, check_folder
from .pairing import is_local


@DATASETS.register_module()
class CheckedSegDataset(BaseSegDataset):
    """``BaseSegDataset`` with clear errors about its classes and folders; the base of a user's own data.

    An image and its label have the same name; labels hold the class of each pixel, from 0, and ``ignore_index``.

    Args:
        img_suffix: Ending of the image files. None takes the one that the folder holds: .png, .jpg, .jpeg, .bmp, .tif,
            .tiff or .webp, in small letters or in capitals.
        seg_map_suffix: Ending of the label files.
        metainfo: ``classes``, their names, and ``palette``, an RGB colour for each. It is needed unless the data set
            class defines its classes itself.
        **kwargs: Other arguments of ``BaseSegDataset``.

    Raises:
        FileNotFoundError: The image or label folder is missing.
        ValueError: A folder is empty, or it holds images of several suffixes while ``img_suffix`` is None; or there
            are no classes, or more or fewer colours than classes.
    """

    def __init__(
        self, img_suffix: str | None = None, seg_map_suffix: str = '.png', metainfo: dict | None = None, **kwargs: Any
    ) -> None:
        given = {**self.METAINFO, **(metainfo or {})}
        classes, palette = given.get('classes') or (), given.get('palette') or ()
        if not classes or isinstance(classes, str):
            raise ValueError(
                f'{type(self).__name__} got metainfo={metainfo}, but it needs the names of the classes. Fix: '
                "metainfo=dict(classes=('road', 'car'), palette=[[128, 64, 128], [0, 0, 142]]) in the config."
            )
        if not self.METAINFO and palette and len(palette) != len(classes):
            raise ValueError(
                f'The palette of {type(self).__name__} has {len(palette)} colours for {len(classes)} classes '
                f'({", ".join(classes)}). Every class has one colour. Fix: make palette and classes equally long.'
            )
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, metainfo=metainfo, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Check the folders, then list images and labels as ``BaseSegDataset`` does."""
        image_dir, label_dir = self.data_prefix.get('img_path'), self.data_prefix.get('seg_map_path')
        if image_dir and is_local(image_dir, self.backend_args):
            check_folder(image_dir, self.img_suffix or IMAGE_SUFFIXES, 'image')
        if label_dir and is_local(label_dir, self.backend_args):
            check_folder(label_dir, self.seg_map_suffix, 'label')
        if self.img_suffix is None:
            self.img_suffix = self._find_suffix(image_dir)
        return super().load_data_list()

    def _find_suffix(self, folder: str) -> str:
        names = fileio.list_dir_or_file(folder, list_dir=False, recursive=True, backend_args=self.backend_args)
        images = [name for name in sorted(names, reverse=True) if name.lower().endswith(IMAGE_SUFFIXES)]
        examples = {name[name.rindex('.') :]: name for name in images}
        if len(examples) != 1:
            raise ValueError(
                f'The image folder {folder} holds images of several suffixes: '
                f'{", ".join(sorted(examples.values()))}. All its images must have the same one of '
                f'{", ".join(IMAGE_SUFFIXES)}, written alike. Fix: rename or remove the others, or set img_suffix '
                'in the config.'
            )
        return next(iter(examples))
