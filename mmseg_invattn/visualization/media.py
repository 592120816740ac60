"""Reads and writes images and videos as RGB arrays, with clear errors for files that cannot be read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from ..datasets.image_files import decode
from ..engine.atomic_backend import AtomicLocalBackend
from ..engine.tested_pipeline import SUFFIXES
from .marks import append_mark, marked

USUAL_RATE = 25.0  # frames per second if the file does not say


def find_images(folder: Path, suffixes: Sequence[str] = SUFFIXES, besides: Path | None = None) -> list[Path]:
    """The images of a folder and of its sub-folders, sorted.

    Args:
        folder: The folder.
        suffixes: Endings of image files, in lower case.
        besides: Folder inside it that is skipped, because results are written there.

    Raises:
        ValueError: There are no images, or two differ only in their suffix, so that their results would have the same
            name.
    """
    images = sorted(
        path
        for path in folder.rglob('*')
        if path.name.lower().endswith(tuple(suffixes))
        and not path.is_dir()
        and not (besides and path.resolve().is_relative_to(besides.resolve()))
    )
    if not images:
        raise ValueError(f'{folder}: the folder holds no image ({", ".join(suffixes)})')
    by_name: dict[Path, Path] = {}
    for path in images:
        name = path.parent / bare_name(path, suffixes)
        if by_name.setdefault(name, path) != path:
            raise ValueError(
                f'{by_name[name]} and {path}: results are named after the file without its suffix, so that one would '
                'replace the other; rename one of them'
            )
    return images


def bare_name(path: Path, suffixes: Sequence[str] = SUFFIXES) -> str:
    """The name of a file without its suffix, which may contain dots (``.nii.gz``)."""
    endings = [suffix for suffix in suffixes if suffix.startswith('.') and path.name.lower().endswith(suffix)]
    return path.name[: -max(map(len, endings))] if endings else path.stem


def read_image(path: Path) -> np.ndarray:
    """An image, (H, W, 3) uint8, RGB.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is truncated, damaged or not an image.
    """
    if not path.is_file():
        raise FileNotFoundError(f'{path}: there is no such image')
    return decode(path.read_bytes(), str(path), 'color', 'cv2')[..., ::-1]


def write_image(path: Path, image: np.ndarray, mark: str = '') -> None:
    """Write an RGB image, or a map of one channel, as PNG, whole or not at all. Missing folders are created.

    Args:
        path: The file.
        image: uint8, or uint16 with one channel.
        mark: The mark that :func:`~mmseg_invattn.visualization.marks.mark_of` will find in the file.
    """
    encoded, png = cv2.imencode('.png', image[..., ::-1] if image.ndim == 3 else image)
    assert encoded, 'a uint8 array is always a PNG'
    AtomicLocalBackend().put(marked(png.tobytes(), mark), path)


class VideoReader:
    """Frames of a video, (H, W, 3) uint8, RGB.

    Attributes:
        rate: frames per second.
        count: number of frames according to the file; None if it does not say.

    Raises:
        ValueError: The file is not a video that OpenCV can read, or it has no frames.
    """

    def __init__(self, path: Path) -> None:
        capture = cv2.VideoCapture(str(path))
        if not capture.isOpened():
            raise ValueError(
                f'{path}: this is neither a folder, nor an image ({", ".join(SUFFIXES)}), nor a '
                'video that OpenCV can read; convert it to an image or a video'
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
    """A context manager that writes RGB frames, or maps of one channel, which all have the size of the first.

    The file appears when all of it is written. A white row or column is added to odd sizes, because the codec needs
    even ones.

    Args:
        path: The file.
        rate: Frames per second.
        mark: The mark that :func:`~mmseg_invattn.visualization.marks.mark_of` will find in the file.
    """

    def __init__(self, path: Path, rate: float, mark: str = '') -> None:
        self.path, self.rate, self.mark = path, rate, mark
        self._partial = path.with_name(f'.{path.stem}.partial{path.suffix}')  # OpenCV takes the format from the suffix
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
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = cv2.VideoWriter(
                str(self._partial), cv2.VideoWriter_fourcc(*'mp4v'), self.rate, (frame.shape[1], frame.shape[0])
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
        if self._writer is None:
            return
        self._writer.release()
        if kind is not None:
            self._partial.unlink(missing_ok=True)
            return
        append_mark(self._partial, self.mark)
        os.replace(self._partial, self.path)
