"""Segmentation data set that says at once when its folders are missing or empty."""

import mmengine.fileio as fileio
from mmseg.datasets import BaseSegDataset

from .checks import IMAGE_SUFFIXES, check_folder, is_local


class CheckedSegDataset(BaseSegDataset):
    """``BaseSegDataset`` with clear errors about its folders and, if asked, the image suffix found by looking.

    ``img_suffix=None`` takes whichever of .png, .jpg and .jpeg the images have. All arguments are those of
    ``BaseSegDataset``.

    Raises:
        FileNotFoundError: The image or label folder is missing.
        ValueError: It is empty, or holds images of several suffixes while ``img_suffix`` is None.
    """

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
        names = fileio.list_dir_or_file(
            folder, list_dir=False, suffix=IMAGE_SUFFIXES, recursive=True, backend_args=self.backend_args
        )
        examples = {name[name.rindex('.') :]: name for name in sorted(names, reverse=True)}
        if len(examples) != 1:
            raise ValueError(
                f'The image folder {folder} holds images of several suffixes: '
                f'{", ".join(sorted(examples.values()))}. All its images must have the same one of '
                f'{", ".join(IMAGE_SUFFIXES)}. Fix: remove the others, or set img_suffix in the config.'
            )
        return next(iter(examples))
