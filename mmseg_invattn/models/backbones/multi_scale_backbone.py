"""Backbones of several scales: every stage halves the resolution and may give out a part of its channels.

Every stage first turns pixels into channels (space to depth by its stride r, ``C -> C r^2``), then transforms. A stage
whose index is in ``out_indices`` splits off half of its channels as an output, and the other half goes to the next
stage; the last stage outputs all remaining channels. The outputs have as many numbers as the image and determine it.
"""

from collections.abc import Callable, Sequence

from ...layers import InvertibleModule, InvertibleSequential, Split, Squeeze
from .invertible_backbone import InvertibleBackbone

# (stage, channels, whether a split follows) -> the layers of the stage
Stage = Callable[[int, int, bool], list[InvertibleModule]]


class MultiScaleBackbone(InvertibleBackbone):
    """A sequence of invertible stages.

    Args:
        stage: makes the layers of a stage.
        in_channels: channels of the image.
        strides: of each stage, relative to the previous stage.
        out_indices: stages with an output, including the last one.
        memory_free: recover the activations in training instead of storing them.
        init_cfg: as in every ``BaseModule``.
        stem: layers before the first stage.

    Raises:
        ValueError: the out indices are not increasing or lack the last stage.
    """

    def __init__(
        self,
        stage: Stage,
        in_channels: int,
        strides: Sequence[int],
        out_indices: Sequence[int],
        memory_free: bool,
        init_cfg: dict | None,
        stem: Sequence[InvertibleModule] = (),
    ):
        last = len(strides) - 1
        if (
            sorted(set(out_indices)) != list(out_indices)
            or not out_indices
            or min(out_indices) < 0
            or max(out_indices) != last
        ):
            raise ValueError(
                f'out_indices={tuple(out_indices)} must be stages from 0 to {last} in increasing order that end '
                f'with {last}: without the last stage the outputs would not determine the image; with '
                f'strides={tuple(strides)} the usual choice is {tuple(range(last + 1))}'
            )
        layers, channels, stride, widths, total = [*stem], in_channels, 1, [], []
        for i, factor in enumerate(strides):
            channels, stride, splits = channels * factor**2, stride * factor, i in out_indices and i < last
            layers += [Squeeze(factor)] * (factor > 1) + stage(i, channels, splits)
            if splits:
                layers.append(Split(channels))
                widths.append(channels - channels // 2)
                total.append(stride)
                channels //= 2
        super().__init__(
            InvertibleSequential(*layers), (*widths, channels), (*total, stride), stride, memory_free, init_cfg
        )
        self.in_channels = in_channels
