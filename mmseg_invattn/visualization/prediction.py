"""Paints predictions of a model over images and videos, and writes them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from ..datasets.pictures import to_picture
from ..engine.inference import check_channels
from ..engine.tested_pipeline import Loaded, TestedPipeline
from ..evaluation.prediction_files import label_values
from .marks import mark_of, mark_of_input, mark_of_run
from .media import VideoReader, VideoWriter, write_image
from .overlay import class_colours, confidence_map, paint, with_legend


class Seen(NamedTuple):
    """Classes (H, W) and confidence (H, W) uint8."""

    labels: np.ndarray
    confidence: np.ndarray


class Painter:
    """Runs a model and writes overlays, label maps and confidence.

    Each file has a mark that identifies the weights, the settings and the image that it was made from.

    Args:
        model: A model from :func:`~mmseg_invattn.engine.inference.init_model`.
        pipeline: The pipeline that reads the images.
        opacity: Opacity of the colours over the image.
        kinds: Kinds of pictures for each image: ``'overlay'``, ``'labels'``, ``'confidence'``.
        resume: Skip pictures that exist already.
    """

    def __init__(
        self, model: nn.Module, pipeline: TestedPipeline, opacity: float, kinds: Sequence[str], resume: bool = False
    ) -> None:
        self.model, self.pipeline, self.opacity, self.kinds, self.resume = model, pipeline, opacity, kinds, resume
        meta = model.dataset_meta
        heads = model.decode_head
        self.names = list(
            meta.get('classes')
            or map(str, range((heads[-1] if isinstance(heads, nn.ModuleList) else heads).num_classes))
        )
        self.colours = class_colours(len(self.names), meta.get('palette'))
        self.run = mark_of_run(model, pipeline.steps, pipeline.reduce_zero_label, opacity)

    @torch.no_grad()
    def predict(self, loaded: Loaded) -> Seen:
        """Classes and confidence that the model predicts for an image."""
        result = self.model.test_step(dict(inputs=[loaded.inputs], data_samples=[loaded.sample]))[0]
        labels = result.pred_sem_seg.data[0].cpu().numpy().astype(np.int64)
        confidence = confidence_map(result.seg_logits.data.float().cpu().numpy(), labels)
        return Seen(labels, np.rint(255 * confidence).astype(np.uint8))

    def paint_images(self, images: Mapping[Path, Mapping[str, Path]]) -> tuple[int, list[str]]:
        """Write the pictures of each image; images that cannot be read are skipped.

        Args:
            images: File -> kind of a picture -> its file.

        Returns:
            The number of images whose pictures existed already, and the errors of those that were skipped.

        Raises:
            FileExistsError: A picture that exists was made from another image or model, or with other settings.
        """
        faults, before = [], 0
        for path, pictures in tqdm(images.items(), desc='predict', unit='image'):
            try:
                mark = mark_of_input(self.run, path)
                if self.resume and self._done(pictures.values(), mark):
                    before += 1
                    continue
                loaded = self.pipeline(path)
                check_channels(self.model, loaded.inputs, path)
            except FileExistsError:
                raise
            except (OSError, ValueError) as error:
                faults.append(str(error))
                continue
            seen = self.predict(loaded)
            image = to_picture(loaded.image)
            for kind, picture in pictures.items():
                write_image(picture, self._drawn(kind, image, seen), mark)
        return before, faults

    def paint_video(self, path: Path, video: VideoReader, pictures: Mapping[str, Path]) -> int:
        """Write the painted video, with all the classes in its legend.

        The predictions of each frame are kept in files next to it until the video is complete, so that an interrupted
        prediction can be resumed.

        Args:
            path: The file.
            video: Its frames.
            pictures: Kind of a picture -> its file.

        Returns:
            Number of frames; 0 if the video existed already.

        Raises:
            FileExistsError: The video that exists was made from another video or model, or with other settings.
        """
        mark = mark_of_input(self.run, path)
        if self.resume and self._done(pictures.values(), mark):
            return 0
        first = next(iter(pictures.values()))
        kept = first.with_name(f'.{path.name}_frames')
        number = 0
        with ExitStack() as stack:
            writers = {
                kind: stack.enter_context(VideoWriter(file, video.rate, mark)) for kind, file in pictures.items()
            }
            for frame in tqdm(video, desc='predict', unit='frame', total=video.count):
                seen = self._frame(frame, kept / f'{number:07}', mark, path)
                for kind, writer in writers.items():
                    writer.write(self._drawn(kind, frame, seen, range(len(self.names))))
                number += 1
        shutil.rmtree(kept, ignore_errors=True)
        return number

    def _frame(self, frame: np.ndarray, kept: Path, mark: str, video: Path) -> Seen:
        """Classes and confidence that the model predicts for a frame; they are kept in files."""
        files = [kept.with_name(f'{kept.name}_{kind}.png') for kind in Seen._fields]
        if self.resume and all(mark_of(file) == mark for file in files):
            return Seen(*(cv2.imread(str(file), cv2.IMREAD_UNCHANGED) for file in files))
        seen = self.predict(self._loaded(frame, video))
        for file, values in zip(files, seen, strict=True):
            write_image(file, values.astype(np.uint8 if len(self.names) <= 256 else np.uint16), mark)
        return seen

    def _loaded(self, frame: np.ndarray, video: Path) -> Loaded:
        """A frame, loaded by the loader of the pipeline, which reads only files."""
        with tempfile.NamedTemporaryFile(suffix='.bmp') as file:
            file.write(cv2.imencode('.bmp', np.ascontiguousarray(frame[..., ::-1]))[1].tobytes())
            file.flush()
            try:
                loaded = self.pipeline(file.name)
                check_channels(self.model, loaded.inputs, video)
            except ValueError as error:
                raise ValueError(
                    f'{video}: the loader of the test data gets the frames as 8-bit BMP files, but refuses them: '
                    f'{error}'
                ) from error
        return loaded

    def _drawn(self, kind: str, image: np.ndarray, seen: Seen, shown: Sequence[int] | None = None) -> np.ndarray:
        if kind == 'labels':
            return label_values(seen.labels, len(self.names), self.pipeline.reduce_zero_label)
        if kind == 'confidence':
            return seen.confidence
        painted = paint(image, seen.labels, self.colours, self.opacity)
        return with_legend(
            painted, self.names, self.colours, np.unique(seen.labels).tolist() if shown is None else shown
        )

    def _done(self, files: Sequence[Path], mark: str) -> bool:
        """Whether the pictures exist already."""
        found = [mark_of(file) for file in files if file.exists()]
        if any(one != mark for one in found):
            other = next(file for file in files if file.exists() and mark_of(file) != mark)
            raise FileExistsError(
                f'{other} was made from another image or checkpoint, or with other settings, and --resume would mix '
                'the two: choose another --out, or replace all by --overwrite'
            )
        return len(found) == len(files)
