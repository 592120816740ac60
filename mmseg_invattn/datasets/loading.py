"""Loading transforms that never accept a broken image or label: drop-in replacements of MMSegmentation's."""

import mmengine.fileio as fileio
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import TRANSFORMS

from .image_files import check_label, decode, orientation, training_labels


def _read(path: str, backend_args: dict | None, what: str) -> bytes:
    try:
        return fileio.get(path, backend_args=backend_args)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f'The {what} file {path} does not exist. Every image needs its label and every listed '
            'image its file. Fix: put the file there, or remove its partner or its line in '
            'ann_file.'
        ) from error


@TRANSFORMS.register_module()
class StrictLoadImageFromFile(LoadImageFromFile):
    """Load an image; a missing, truncated or unreadable file raises an error that names it.

    It needs ``img_path`` and sets ``img``, ``img_shape`` and ``ori_shape``, as ``LoadImageFromFile`` does.

    Args:
        to_float32: Return float32 in place of uint8.
        color_type: mmcv's colour flag.
        imdecode_backend: mmcv's decoding backend.
        backend_args: mmengine's file backend; None reads from the local disk.
    """

    def __init__(
        self,
        to_float32: bool = False,
        color_type: str = 'color',
        imdecode_backend: str = 'cv2',
        *,
        backend_args: dict | None = None,
    ) -> None:
        super().__init__(to_float32, color_type, imdecode_backend, backend_args=backend_args)

    def transform(self, results: dict) -> dict:
        """Load ``results['img_path']``.

        Raises:
            FileNotFoundError: No such file.
            ValueError: The file is truncated or unreadable.
        """
        path = results['img_path']
        image = decode(_read(path, self.backend_args, 'image'), path, self.color_type, self.imdecode_backend)
        if self.to_float32:
            image = image.astype(np.float32)
        results['img'] = image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results


@TRANSFORMS.register_module()
class StrictLoadAnnotations(LoadAnnotations):
    """Load a label map; a faulty file raises an error that names it.

    The file must exist and be whole, have one channel and the size of its image, and hold only classes and
    ``ignore_index``. The values are checked as stored in the file, because ``reduce_zero_label`` and a data set's
    mapping of classes would hide a wrong one.

    Args:
        num_classes: Number of classes in the label files, also if ``metainfo`` selects only some of them.
        ignore_index: Value of pixels without a class.
        reduce_zero_label: As in ``LoadAnnotations``; None takes it from the data set.
        imdecode_backend: mmcv's decoding backend.
        backend_args: mmengine's file backend; None reads from the local disk.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_index: int = 255,
        reduce_zero_label: bool | None = None,
        backend_args: dict | None = None,
        imdecode_backend: str = 'pillow',
    ) -> None:
        if num_classes < 1:
            raise ValueError(
                f'num_classes is {num_classes}, but label files hold at least one class. '
                'Fix: give the number of classes of the data set.'
            )
        super().__init__(reduce_zero_label, backend_args, imdecode_backend)
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def _load_seg_map(self, results: dict) -> None:
        path = results['seg_map_path']
        label = decode(_read(path, self.backend_args, 'label'), path, 'unchanged', self.imdecode_backend)
        if self.reduce_zero_label is None:
            self.reduce_zero_label = results['reduce_zero_label']
        size = results.get('ori_shape')
        turned = 1
        if size is not None and label.shape[:2] != tuple(size) and results.get('img_path'):
            turned = orientation(_read(results['img_path'], self.backend_args, 'image'))
        check_label(label, path, self.num_classes, self.ignore_index, self.reduce_zero_label, size, turned)
        results['gt_seg_map'] = training_labels(label, self.reduce_zero_label, results.get('label_map'))
        results['seg_fields'].append('gt_seg_map')

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(num_classes={self.num_classes}, ignore_index={self.ignore_index}, '
            f'reduce_zero_label={self.reduce_zero_label}, imdecode_backend={self.imdecode_backend!r}, '
            f'backend_args={self.backend_args})'
        )
