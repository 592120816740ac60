"""What the backbones that are invertible from end to end share: stages, outputs, and the way back to the image.

Every stage trades resolution for channels (space to depth by its stride r, ``C -> C r^2``), then transforms. A stage
whose index is in ``out_indices`` splits off half of its channels as an output, and the other half goes on; the last
stage puts out all that is left. The outputs hold as many numbers as the image, and determine it.
"""

from collections.abc import Callable, Sequence

from mmengine.model import BaseModule
from torch import Tensor

from ...layers import InverseInfo, InvertibleModule, InvertibleSequential, MemoryFree, Split, Squeeze
from ...ops import Roulette, at_least_float32
from ...wording import counted
from .. import attention as attentions

# Layers of stage i at so many channels, and whether a split follows them.
Stage = Callable[[int, int, bool], list[InvertibleModule]]


class InvertibleBackbone(BaseModule):
    """A sequence of invertible stages.

    Features are float32 or higher, also under AMP: a stream that is to be inverted must not be rounded.

    Attributes:
        out_channels: channels of each output.
        out_strides: pixels of the image along a side of a pixel of each output.
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
                f'out_indices={tuple(out_indices)} are not increasing stages from 0 to {last} that end '
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
        # Not a submodule: parameters have the same names with and without it.
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
        """The images of these features, with what :class:`~mmseg_invattn.layers.InverseInfo` says of them.

        Args:
            features: all the outputs of :meth:`forward`, in its order.
            tol: see :meth:`~mmseg_invattn.layers.InvertibleModule.inverse`, as are ``max_iter`` (for each layer) and
                ``strict``.
        """
        features = tuple(features)
        if [y.shape[1] for y in features] != list(self.out_channels):
            raise ValueError(
                f'got features of {[y.shape[1] for y in features]} channels; the inverse takes all the '
                f'outputs of forward, of {list(self.out_channels)} channels'
            )
        y = (features[-1], *features[:-1])
        return self.flow.inverse(y if len(y) > 1 else y[0], tol, max_iter, strict)

    def log_abs_det(self, x: Tensor, n_terms: int | str | Roulette = 10, n_samples: int = 1) -> Tensor:
        """``log|det|`` of the map from an image to all of its features, shape (B,); see the layers' contract."""
        self._check(x)
        return self.flow.log_abs_det(x, n_terms, n_samples)

    def log_abs_det_error_bound(self, x: Tensor, n_terms: int | str | Roulette = 10) -> Tensor | None:
        """Bound of the truncation error of :meth:`log_abs_det`, in nats, shape (B,); None where there is none."""
        return self.flow.log_abs_det_error_bound(x, n_terms)

    def _check(self, x: Tensor) -> None:
        height, width = x.shape[-2:]
        if height % self.stride or width % self.stride:
            raise ValueError(
                f'got images of {height} x {width}; {type(self).__name__} takes multiples of its total stride '
                f'{self.stride}: crop or pad them to {-(-height // self.stride) * self.stride} x '
                f'{-(-width // self.stride) * self.stride}, which data_preprocessor=dict(..., '
                f'size_divisor={self.stride}, test_cfg=dict(size_divisor={self.stride})) does'
            )


def per_stage(name: str, value: Sequence | None, default: Sequence, strides: Sequence[int]) -> tuple:
    """An argument with one entry a stage, or its default."""
    value = tuple(default if value is None else value)
    if len(value) != len(strides):
        raise ValueError(
            f'{name}={value} has {counted(len(value), "entry")} for the {counted(len(strides), "stage")} of '
            f'strides={tuple(strides)}: give one a stage'
        )
    return value


def preset(depth: int | str, presets: dict[str, dict]) -> dict:
    """The sizes of a depth."""
    if str(depth) not in presets:
        raise ValueError(
            f'depth={depth!r} is unknown: choose one of {", ".join(map(repr, presets))}, and override '
            'its sizes by stage_blocks, hidden_channels and kernel_sizes'
        )
    return presets[str(depth)]


def check_attention(attention: dict | None, stages: Sequence[int], strides: Sequence[int]) -> None:
    """Refuses attention without stages, stages without attention, and stages that there are not."""
    if (attention is None) != (not stages):
        raise ValueError(f'attention={attention} and attention_stages={tuple(stages)}: give both or neither')
    if not set(stages) <= set(range(len(strides))):
        raise ValueError(f'attention_stages={tuple(stages)} are not all from 0 to {len(strides) - 1}')


def build_attention(attention: dict, channels: int) -> InvertibleModule:
    """The attention layer of that config, which must have an inverse.

    Raises:
        ValueError: it has none.
    """
    layer = attentions.build_attention(channels, attention)
    if not isinstance(layer, InvertibleModule):
        raise ValueError(
            f'attention={attention} has no inverse, and the backbone would have none: take '
            "form='certified', 'conditional' or 'coupling'"
        )
    return layer
