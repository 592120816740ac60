"""Predictions of a model for images and videos, painted and written."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from mmseg.apis import inference_model
from torch import nn
from tqdm import tqdm

from .media import VideoReader, VideoWriter, read_image, write_image
from .overlay import class_colours, confidence_map, paint, with_legend


class Painter:
    """Runs a model and writes overlays, label maps and confidence.

    Args:
        model: Of :func:`~mmseg_invattn.engine.inference.init_model`.
        out: Folder that is there.
        opacity: Of the colours over the image.
        confidence: Write the confidence of each pixel as well.
    """

    def __init__(self, model: nn.Module, out: Path, opacity: float, confidence: bool) -> None:
        self.model, self.out, self.opacity, self.confidence = model, out, opacity, confidence
        meta = model.dataset_meta
        heads = model.decode_head
        self.names = list(
            meta.get('classes')
            or map(str, range((heads[-1] if isinstance(heads, nn.ModuleList) else heads).num_classes))
        )
        self.colours = class_colours(len(self.names), meta.get('palette'))

    def predict(self, image_HW3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Classes (H, W) and confidence (H, W) uint8 of an RGB image."""
        result = inference_model(self.model, np.ascontiguousarray(image_HW3[..., ::-1]))
        labels = result.pred_sem_seg.data[0].cpu().numpy().astype(np.int64)
        confidence = confidence_map(result.seg_logits.data.float().cpu().numpy())
        return labels, np.rint(255 * confidence).astype(np.uint8)

    def paint_images(self, images: Sequence[Path]) -> list[str]:
        """Write the pictures of each image; one that cannot be read is left out.

        Returns:
            What is wrong with those that were left out.
        """
        faults = []
        for path in tqdm(images, desc='predict', unit='image'):
            try:
                image = read_image(path)
            except (OSError, ValueError) as error:
                faults.append(str(error))
                continue
            labels, confidence = self.predict(image)
            picture = with_legend(
                paint(image, labels, self.colours, self.opacity), self.names, self.colours, np.unique(labels).tolist()
            )
            write_image(self.out / f'{path.stem}_overlay.png', picture)
            # more than 255 classes do not fit into 8 bits
            write_image(
                self.out / f'{path.stem}_labels.png', labels.astype(np.uint8 if len(self.names) < 256 else np.uint16)
            )
            if self.confidence:
                write_image(self.out / f'{path.stem}_confidence.png', confidence)
        return faults

    def paint_video(self, video: VideoReader, stem: str) -> int:
        """Write the painted video, with all the classes in its legend.

        Returns:
            Number of frames.
        """
        number = 0
        with ExitStack() as stack:
            overlay = stack.enter_context(VideoWriter(self.out / f'{stem}_overlay.mp4', video.rate))
            grey = self.confidence and stack.enter_context(VideoWriter(self.out / f'{stem}_confidence.mp4', video.rate))
            for frame in tqdm(video, desc='predict', unit='frame', total=video.count):
                labels, confidence = self.predict(frame)
                overlay.write(
                    with_legend(
                        paint(frame, labels, self.colours, self.opacity),
                        self.names,
                        self.colours,
                        range(len(self.names)),
                    )
                )
                if grey:
                    grey.write(confidence)
                number += 1
        return number
