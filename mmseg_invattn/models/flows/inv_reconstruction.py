"""The first experiment of the paper: does the inverse of a trained attention block recover its input?

Zha et al., Invertible Attention, https://arxiv.org/abs/2106.09003. The model is a squeeze by 2 and one attention block.
It is trained with the mean squared error to a fixed batch of Gaussian noise; then test images are run forward and back.
"""

import torch
from mmengine.model import BaseModel
from mmseg.registry import MODELS
from torch import Tensor

from ...layers import InvertibleModule, InvertibleSequential, Squeeze
from ..attention import build_attention


@MODELS.register_module()
class InvReconstruction(BaseModel):
    """Squeeze by 2 and one attention block, trained to match a fixed target.

    Args:
        attention: config of the attention, without ``in_channels``; see
            :func:`~mmseg_invattn.models.attention.build_attention`. It must have an inverse.
        target_shape: (batch, channels, height, width) of the target; batches of images may be smaller. Height and width
            are half of those of the images.
        target_seed: seed of the target, which depends only on this and on the shape.
        tol: see :meth:`~mmseg_invattn.layers.InvertibleModule.inverse`.
        max_iter: see :meth:`~mmseg_invattn.layers.InvertibleModule.inverse`.
        data_preprocessor: as in every ``BaseModel``.
        init_cfg: as in every ``BaseModel``.

    Raises:
        ValueError: the attention has no inverse.
    """

    def __init__(
        self,
        attention: dict,
        target_shape: tuple[int, int, int, int] = (64, 12, 16, 16),
        target_seed: int = 0,
        tol: float = 1e-6,
        max_iter: int = 100,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(data_preprocessor, init_cfg)
        block = build_attention(target_shape[1], attention)
        if not isinstance(block, InvertibleModule):
            raise ValueError(
                f"attention={attention} has no inverse to measure: use form='certified', "
                "'conditional', 'coupling' or 'paper'"
            )
        self.flow = InvertibleSequential(Squeeze(2), block)
        self.tol, self.max_iter = tol, max_iter
        generator = torch.Generator().manual_seed(target_seed)
        self.register_buffer('target', torch.randn(tuple(target_shape), generator=generator))

    def forward(self, inputs: Tensor, labels: Tensor | None = None, mode: str = 'tensor') -> Tensor | dict | list[dict]:
        """Features, loss or recovered images.

        Args:
            inputs: images (B, 3, H, W).
            labels: their classes, not used.
            mode: ``'tensor'`` for the features, ``'loss'`` for the loss, ``'predict'`` for the recovered images, see
                :func:`reconstruct`.
        """
        if mode == 'predict':
            return reconstruct(self.flow, inputs, self.tol, self.max_iter)
        y = self.flow(inputs)
        if mode == 'tensor':
            return y
        if mode != 'loss':
            raise ValueError(f"mode={mode!r} is unknown: choose one of 'tensor', 'loss', 'predict'")
        if y.shape[1:] != self.target.shape[1:] or len(y) > len(self.target):
            raise ValueError(
                f'the features have shape {tuple(y.shape)}, but the target {tuple(self.target.shape)}: set '
                'target_shape to the batch size and to the channels and size after the squeeze'
            )
        return dict(loss=(y - self.target[: len(y)]).square().mean())


@torch.no_grad()
def reconstruct(flow: InvertibleSequential, x: Tensor, tol: float, max_iter: int) -> list[dict]:
    """Runs images forward and back and returns one dict for each of them.

    ``original`` and ``recovered`` are the images; ``error`` is the error in the norm of the report. ``error_bound``,
    ``iterations``, ``residual`` and ``converged`` come from the report (:class:`~mmseg_invattn.layers.InverseInfo`).
    """
    y = flow(x)
    recovered, info = flow.inverse(y, tol, max_iter, strict=False)
    error = flow.error_norm(recovered - x)
    return [
        dict(
            original=x[i],
            recovered=recovered[i],
            error=float(error[i]),
            error_bound=float(info.error_bound[i]),
            iterations=int(info.iterations[i]),
            residual=float(info.residual[i]),
            converged=bool(info.converged[i]),
        )
        for i in range(len(x))
    ]
