"""The base class of backbones that are invertible as a whole: stages, outputs, and the inverse to the image.

Every stage first turns pixels into channels (space to depth by its stride r, ``C -> C r^2``), then transforms. A stage
whose index is in ``out_indices`` splits off half of its channels as an output, and the other half goes to the next
stage; the last stage outputs all remaining channels. The outputs have as many numbers as the image and determine it.
"""

from collections.abc import Callable, Sequence

from mmengine.model import BaseModule
from torch import Tensor

from ...layers import InverseInfo, InvertibleModule, InvertibleSequential, MemoryFree, Split, Squeeze
from ...ops import Roulette, at_least_float32
from ...wording import counted
from .. import attention as attentions

# (stage, channels, whether a split follows) -> the layers of the stage
Stage = Callable[[int, int, bool], list[InvertibleModule]]


class InvertibleBackbone(BaseModule):
    """A sequence of invertible stages.

    Features are float32 or higher, also under AMP, because a stream that is to be inverted must not be rounded.

    Attributes:
        out_channels: channels of each output.
        out_strides: stride of each output, in pixels of the image.
        flow: all layers, an :class:`~mmseg_invattn.layers.InvertibleSequential`; it returns the last output first.
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
        super().__init__(init_cfg)
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
        self.out_channels, self.out_strides = (*widths, channels), (*total, stride)
        self.stride, self.memory_free = stride, memory_free
        self.flow = InvertibleSequential(*layers)
        # In a tuple, so that it is not a submodule: parameters have the same names with and without MemoryFree.
        self._forward = (MemoryFree(self.flow) if memory_free else self.flow,)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images (B, in_channels, H, W) -> one feature map per out index, (B, C_i, H / s_i, W / s_i).

        Raises:
            ValueError: height or width is not a multiple of the total stride.
        """
        self._check(x)
        y = self._forward[0](at_least_float32(x))
        last, *latents = (y,) if isinstance(y, Tensor) else y
        return (*latents, last)

    def inverse(
        self, features: Sequence[Tensor], tol: float = 1e-6, max_iter: int = 100, strict: bool = True
    ) -> tuple[Tensor, InverseInfo]:
        """The images that have these features, with the report of the inverse.

        Args:
            features: all outputs of :meth:`forward`, in the same order.
            tol: see :meth:`~mmseg_invattn.layers.InvertibleModule.inverse`.
            max_iter: see :meth:`~mmseg_invattn.layers.InvertibleModule.inverse`; for each layer.
            strict: see :meth:`~mmseg_invattn.layers.InvertibleModule.inverse`.
        """
        features = tuple(features)
        if [y.shape[1] for y in features] != list(self.out_channels):
            raise ValueError(
                f'got features with {[y.shape[1] for y in features]} channels; the inverse takes all '
                f'outputs of forward, with {list(self.out_channels)} channels'
            )
        y = (features[-1], *features[:-1])
        return self.flow.inverse(y if len(y) > 1 else y[0], tol, max_iter, strict)

    def log_abs_det(self, x: Tensor, n_terms: int | str | Roulette = 10, n_samples: int = 1) -> Tensor:
        """``log|det|`` of the map from an image to all of its features, shape (B,).

        See :meth:`~mmseg_invattn.layers.InvertibleModule.log_abs_det`.
        """
        self._check(x)
        return self.flow.log_abs_det(x, n_terms, n_samples)

    def log_abs_det_error_bound(self, x: Tensor, n_terms: int | str | Roulette = 10) -> Tensor | None:
        """Bound of the truncation error of :meth:`log_abs_det`, in nats, shape (B,); None if there is none."""
        return self.flow.log_abs_det_error_bound(x, n_terms)

    def _check(self, x: Tensor) -> None:
        height, width = x.shape[-2:]
        if height % self.stride or width % self.stride:
            raise ValueError(
                f'got images of {height} x {width}; {type(self).__name__} takes multiples of its total stride '
                f'{self.stride}: crop or pad them to {-(-height // self.stride) * self.stride} x '
                f'{-(-width // self.stride) * self.stride}, for example with data_preprocessor=dict(..., '
                f'size_divisor={self.stride}, test_cfg=dict(size_divisor={self.stride}))'
            )


def per_stage(name: str, value: Sequence | None, default: Sequence, strides: Sequence[int]) -> tuple:
    """An argument with one entry per stage, or its default."""
    value = tuple(default if value is None else value)
    if len(value) != len(strides):
        raise ValueError(
            f'{name}={value} has {counted(len(value), "entry")} for the {counted(len(strides), "stage")} of '
            f'strides={tuple(strides)}: give one entry per stage'
        )
    return value


def preset(depth: int | str, presets: dict[str, dict]) -> dict:
    """The sizes of a depth."""
    if str(depth) not in presets:
        raise ValueError(
            f'depth={depth!r} is unknown: choose one of {", ".join(map(repr, presets))}; for other sizes give '
            'stage_blocks, hidden_channels and kernel_sizes as well'
        )
    return presets[str(depth)]


def check_attention(attention: dict | None, stages: Sequence[int], strides: Sequence[int]) -> None:
    """Raises ValueError for attention without stages, stages without attention, and stages that do not exist."""
    if (attention is None) != (not stages):
        raise ValueError(f'attention={attention} and attention_stages={tuple(stages)}: give both or neither')
    if not set(stages) <= set(range(len(strides))):
        raise ValueError(f'attention_stages={tuple(stages)} are not all from 0 to {len(strides) - 1}')


def build_attention(attention: dict, channels: int) -> InvertibleModule:
    """Builds an attention layer that has an inverse.

    Raises:
        ValueError: the layer has no inverse.
    """
    layer = attentions.build_attention(channels, attention)
    if not isinstance(layer, InvertibleModule):
        raise ValueError(
            f'attention={attention} has no inverse, so the backbone would have none either: use '
            "form='certified', 'conditional' or 'coupling'"
        )
    return layer
