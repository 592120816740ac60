"""The base class of backbones that are invertible as a whole, with the inverse from features to the image."""

from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor

from ...layers import InverseInfo, InvertibleModule, InvertibleSequential, MemoryFree
from ...ops import Roulette, at_least_float32
from ...wording import counted
from .. import attention as attentions


class InvertibleBackbone(BaseModule):
    """Invertible layers from an image to its features.

    Features are float32 or higher, also under AMP, because a stream that is to be inverted must not be rounded.

    Args:
        flow: all layers; it returns (the last output, the outputs before it...).
        out_channels: channels of each output, in the order of :meth:`forward`.
        out_strides: stride of each output, in pixels of the image.
        stride: height and width of an image have to be multiples of it.
        memory_free: recover the activations in training instead of storing them.
        init_cfg: as in every ``BaseModule``.
    """

    def __init__(
        self,
        flow: InvertibleSequential,
        out_channels: Sequence[int],
        out_strides: Sequence[int],
        stride: int,
        memory_free: bool,
        init_cfg: dict | None,
    ):
        super().__init__(init_cfg)
        self.flow, self.out_channels, self.out_strides = flow, tuple(out_channels), tuple(out_strides)
        self.stride, self.memory_free = stride, memory_free
        # In a tuple, so that it is not a submodule: parameters have the same names with and without MemoryFree.
        self._forward = (MemoryFree(flow) if memory_free else flow,)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images (B, in_channels, H, W) -> one feature map per output, (B, C_i, H / s_i, W / s_i).

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


def per_stage(
    name: str, value: Sequence | None, default: Sequence, stages: Sequence[int], counted_by: str = 'strides'
) -> tuple:
    """An argument with one entry per stage, or its default.

    Args:
        stages: what the argument ``counted_by`` gives for each stage.
    """
    value = tuple(default if value is None else value)
    if len(value) != len(stages):
        setting = len(stages) if counted_by == 'num_stages' else tuple(stages)
        raise ValueError(
            f'{name}={value} has {counted(len(value), "entry")} for the {counted(len(stages), "stage")} of '
            f'{counted_by}={setting}: give one entry per stage'
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
    """Raises ValueError for attention without stages or stages without attention, and for wrong or repeated stages."""
    if (attention is None) != (not stages):
        raise ValueError(f'attention={attention} and attention_stages={tuple(stages)}: give both or neither')
    if not set(stages) <= set(range(len(strides))):
        raise ValueError(f'attention_stages={tuple(stages)} are not all from 0 to {len(strides) - 1}')
    if len(set(stages)) < len(stages):
        raise ValueError(f'attention_stages={tuple(stages)} name a stage twice: a stage has one attention')


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
