"""Decoding images and labels so that a broken file raises an error that names it.

OpenCV returns the readable part of a truncated JPEG or PNG, and noise after damaged bytes of a JPEG. A cast of a label
map to uint8 turns class 257 into class 1. Each of these spoils a training run silently, so the raw bytes, the decoder's
messages and the values are checked here.
"""

import io
import warnings
import zlib

import cv2
import mmcv
import numpy as np
from PIL import Image

from ..wording import counted
from .decoder_messages import decoder_messages

PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
JPEG_SIGNATURE = b'\xff\xd8'
JPEG_END = b'\xff\xd9'
_REPAIR = 'Fix: copy or download this file again, or convert the data set again.'


def _png_fault(data: bytes) -> str | None:
    position = len(PNG_SIGNATURE)
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], 'big')
        chunk_end = position + 12 + length
        if chunk_end > len(data):
            break
        stored_crc = int.from_bytes(data[chunk_end - 4 : chunk_end], 'big')
        if zlib.crc32(data[position + 4 : chunk_end - 4]) != stored_crc:
            return f'the checksum of its chunk at byte {position} is wrong'
        if data[position + 4 : position + 8] == b'IEND':
            return None
        position = chunk_end
    return 'it is truncated: the file ends before the PNG end marker'


def _jpeg_fault(data: bytes) -> str | None:
    # An EXIF thumbnail is a whole JPEG with an end marker of its own, so the search starts at the scan (FF DA).
    position = len(JPEG_SIGNATURE)
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == 0xDA:
            return None if data.find(JPEG_END, position) >= 0 else 'it is truncated: the JPEG end marker is missing'
        position += 2 + int.from_bytes(data[position + 2 : position + 4], 'big')
    return 'it is truncated or damaged: no JPEG scan was found in it'


def ensure_whole(data: bytes, path: str) -> None:
    """Refuse the bytes of a truncated PNG or JPEG, and of a PNG whose checksums disagree.

    The cost is one pass over the compressed bytes, a few per cent of the decoding. Other formats, and the data inside
    the scan of a JPEG, are checked by their decoder alone.

    Args:
        data: Content of the file.
        path: Its name, for the message.

    Raises:
        ValueError: The file is empty, cut off or damaged.
    """
    fault = None
    if not data:
        fault = 'it is empty (0 bytes)'
    elif data.startswith(PNG_SIGNATURE):
        fault = _png_fault(data)
    elif data.startswith(JPEG_SIGNATURE):
        fault = _jpeg_fault(data)
    if fault:
        raise ValueError(f'Cannot read the image file {path}: {fault}. Image files must be whole. {_REPAIR}')


def decode(data: bytes, path: str, flag: str, backend: str) -> np.ndarray:
    """Decode an image or label file.

    Args:
        data: Content of the file.
        path: Its name, for the message.
        flag: mmcv's colour flag: ``'color'``, ``'grayscale'``, ``'unchanged'``.
        backend: mmcv's decoding backend: ``'cv2'``, ``'pillow'``...

    Returns:
        Array of shape (H, W) or (H, W, channels).

    Raises:
        ValueError: The file is not a whole, readable image, or its decoder printed that its data are damaged. Damage
            that no decoder can notice, such as changed pixels of a BMP, raises nothing.
    """
    ensure_whole(data, path)
    array, fault = None, None
    with decoder_messages() as messages:
        try:
            array = mmcv.imfrombytes(data, flag=flag, backend=backend)
        except Exception as error:
            fault = error
        else:
            if data.startswith(JPEG_SIGNATURE) and backend != 'cv2':
                # Other backends drop the warnings of libjpeg. Decoding at an eighth of the size is cheap, and still
                # reads the whole scan.
                cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8)
    damage = messages.damage()
    if damage and array is not None:
        raise ValueError(
            f'The image file {path} is damaged: its decoder says "{damage}", and makes up the pixels after that place. '
            f'Image files must be whole. {_REPAIR}'
        )
    if fault is not None:
        raise ValueError(f'Cannot read the image file {path}: {fault}. Image files must be whole. {_REPAIR}') from fault
    if array is None:
        said = f' ({damage})' if damage else ''
        raise ValueError(
            f'Cannot read the image file {path}: the decoder {backend!r} finds no image in it{said}. '
            f'Image files must be whole. {_REPAIR}'
        )
    return array


def orientation(data: bytes) -> int:
    """The EXIF orientation of an image file; only the head of the file is read.

    Returns:
        1 if the pixels are to be shown as they are stored, 2 to 4 if they are to be turned or mirrored without a change
        of size, 5 to 8 if height and width are to be swapped.
    """
    if data.startswith(PNG_SIGNATURE) and b'eXIf' not in data:  # Pillow would decode all pixels to look after them
        return 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of faulty EXIF data
            value = Image.open(io.BytesIO(data)).getexif().get(0x0112, 1)
    except Exception:  # not an image, which decoding reports, or unreadable EXIF, which decoding ignores
        return 1
    return value if value in range(2, 9) else 1


def follows_exif(flag: str) -> bool:
    """Whether mmcv turns images by their EXIF orientation with this colour flag; it never turns labels."""
    return flag in ('color', 'grayscale')


def label_values(num_classes: int, ignore_index: int, reduce_zero_label: bool) -> tuple[int, int, set[int]]:
    """The first and the last class that a label file may hold, and the values that are ignored."""
    first = 1 if reduce_zero_label else 0
    return first, num_classes - 1 + first, {ignore_index} | ({0, 255} if reduce_zero_label else set())


def outside_classes(label: np.ndarray, num_classes: int, ignore_index: int, reduce_zero_label: bool) -> np.ndarray:
    """Bool map of the pixels whose value, as stored in the label file, is neither a class nor ignored."""
    first, last, extra = label_values(num_classes, ignore_index, reduce_zero_label)
    if label.dtype == np.uint8:
        allowed = np.zeros(256, dtype=bool)
        allowed[first : last + 1] = True
        allowed[list(extra)] = True
        return ~allowed[label]
    return ((label < first) | (label > last)) & ~np.isin(label, list(extra))


def training_labels(label: np.ndarray, reduce_zero_label: bool, label_map: dict[int, int] | None) -> np.ndarray:
    """The uint8 label map that a model is trained on, from a stored one with only classes and ignored values.

    Args:
        label: As stored in the file.
        reduce_zero_label: The file counts classes from 1, and 0 means ignored.
        label_map: New class of each old one, where ``metainfo`` selects some of the classes.
    """
    label = label.astype(np.uint8)
    if reduce_zero_label:
        # 0 becomes 255 (ignored) by wrapping round; 255 itself must not become 254.
        label = np.where(label == 255, label, label - np.uint8(1))
    if label_map is not None:
        table = np.arange(256, dtype=np.uint8)
        for old, new in label_map.items():
            table[old] = new
        label = table[label]
    return label


def size_advice(label_size: tuple[int, ...], image_size: tuple[int, int], image_orientation: int) -> str:
    """Advice for a label whose size differs from that of its image, which EXIF may have turned."""
    if image_orientation >= 5 and tuple(label_size) == tuple(image_size)[::-1]:
        return (
            f'The EXIF data of the image (orientation {image_orientation}) turn it by 90 degrees when it is loaded, '
            'but the label was drawn on the unturned pixels. Fix: store the images turned and without that entry, or '
            "load them with color_type='color_ignore_orientation'."
        )
    return 'Fix: check that image and label belong together; resize labels by nearest neighbour only.'


def check_label(
    label: np.ndarray,
    path: str,
    num_classes: int,
    ignore_index: int = 255,
    reduce_zero_label: bool = False,
    image_size: tuple[int, int] | None = None,
    image_orientation: int = 1,
) -> None:
    """Refuse a label map that does not fit its image or holds values that are not classes.

    Args:
        label: Label map as stored in the file, before ``reduce_zero_label`` and any mapping of classes are applied.
        path: File of the label map, for the message.
        num_classes: Number of classes in the label files.
        ignore_index: Value of the pixels that count neither in the loss nor in the metric.
        reduce_zero_label: The file counts classes from 1, and 0 means ignored.
        image_size: (height, width) of the image as it was loaded.
        image_orientation: EXIF orientation by which the image was turned, see :func:`orientation`; 1 if it was not.

    Raises:
        ValueError: The label has several channels, another size than its image, or a value that is not a class.
    """
    if label.ndim != 2:
        raise ValueError(
            f'The label file {path} decodes to an array of shape {label.shape}, but a label map has one '
            'channel that holds class indices. Fix: convert colour-coded labels to class indices.'
        )
    if image_size is not None and label.shape != tuple(image_size):
        raise ValueError(
            f'The label file {path} is {label.shape[0]}x{label.shape[1]} pixels (height x width), its '
            f'image is {image_size[0]}x{image_size[1]}. Both must have the same size. '
            + size_advice(label.shape, image_size, image_orientation)
        )
    first, last, extra = label_values(num_classes, ignore_index, reduce_zero_label)
    bad = outside_classes(label, num_classes, ignore_index, reduce_zero_label)
    if bad.any():
        values = np.unique(label[bad]).tolist()
        row, column = np.argwhere(bad)[0].tolist()
        shown = ', '.join(map(str, values[:8])) + (', ...' if len(values) > 8 else '')
        ignored = ' and '.join(map(str, sorted(extra)))
        raise ValueError(
            f'The label file {path} holds the value{"s" * (len(values) > 1)} {shown} in '
            f'{counted(int(bad.sum()), "pixel")}, the first at row {row}, column {column}. '
            f'With {counted(num_classes, "class")} a label is {first} to {last}, or '
            f'{ignored} (ignored). Fix: map the values to class indices with the converter in '
            'tools/dataset_converters, or correct num_classes in the data set config.'
        )
