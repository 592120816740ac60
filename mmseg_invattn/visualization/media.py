"""Images and videos as RGB arrays: what is readable, and what is not, is said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from ..datasets.image_files import decode
from ..engine.atomic_backend import AtomicLocalBackend

IMAGE_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp')
USUAL_RATE = 25.0  # frames a second, where the file does not say


def find_images(folder: Path) -> list[Path]:
    """The images of a folder, sorted; sub-folders do not count.

    Raises:
        ValueError: There are none, or two differ in their suffix alone, so that their outputs would have one name.
    """
    images = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        raise ValueError(f'{folder}: the folder holds no image ({", ".join(IMAGE_SUFFIXES)})')
    by_stem: dict[str, Path] = {}
    for path in images:
        if by_stem.setdefault(path.stem, path) != path:
            raise ValueError(
                f'{by_stem[path.stem]} and {path}: what is written is named after the file without its '
                'suffix; rename one of them'
            )
    return images


def read_image(path: Path) -> np.ndarray:
    """An image, (H, W, 3) uint8, RGB.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is truncated, damaged or no image.
    """
    if not path.is_file():
        raise FileNotFoundError(f'{path}: there is no such image')
    return decode(path.read_bytes(), str(path), 'color', 'cv2')[..., ::-1]


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an RGB image, or a map of one channel, as PNG, making the folder."""
    encoded, png = cv2.imencode('.png', image[..., ::-1] if image.ndim == 3 else image)
    assert encoded, 'a uint8 array is always a PNG'
    AtomicLocalBackend().put(png.tobytes(), path)


class VideoReader:
    """Frames of a video, (H, W, 3) uint8, RGB.

    Attributes:
        rate: frames a second.
        count: number of frames that the file claims to hold; None where it does not say.

    Raises:
        ValueError: The file is no video that OpenCV reads, or a video without frames.
    """

    def __init__(self, path: Path) -> None:
        capture = cv2.VideoCapture(str(path))
        if not capture.isOpened():
            raise ValueError(
                f'{path}: this is neither a folder, nor an image ({", ".join(IMAGE_SUFFIXES)}), nor a '
                'video that OpenCV can read; convert it to one of these'
            )
        there, frame = capture.read()
        if not there:
            raise ValueError(f'{path}: the video has no frames, or none that OpenCV can decode; convert it to H.264')
        self._capture, self._first = capture, frame
        self.rate = capture.get(cv2.CAP_PROP_FPS) or USUAL_RATE
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.count = count if count > 0 else None

    def __iter__(self) -> Iterator[np.ndarray]:
        there, frame = True, self._first
        while there:
            yield np.ascontiguousarray(frame[..., ::-1])
            there, frame = self._capture.read()
        self._capture.release()


class VideoWriter:
    """Writes RGB frames, or maps of one channel, of the size of the first; a context manager.

    Odd sizes are filled up by a white row or column, which the codec asks for.
    """

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self.rate = path, rate
        self._writer: cv2.VideoWriter | None = None

    def write(self, frame: np.ndarray) -> None:
        """Append a frame.

        Raises:
            RuntimeError: OpenCV cannot write the format.
        """
        frame = frame if frame.ndim == 3 else np.repeat(frame[..., None], 3, 2)
        height, width = frame.shape[:2]
        frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), constant_values=255)
        if self._writer is None:
            self._writer = cv2.VideoWriter(
                str(self.path), cv2.VideoWriter_fourcc(*'mp4v'), self.rate, (frame.shape[1], frame.shape[0])
            )
            if not self._writer.isOpened():
                raise RuntimeError(
                    f'{self.path}: this build of OpenCV cannot write MPEG-4; install opencv-python, which has FFmpeg'
                )
        self._writer.write(np.ascontiguousarray(frame[..., ::-1]))

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.release()
