"""Exports the forward pass of a segmentor, preprocessed image -> logits, for programs without this package and mmseg.

The formats are those of :mod:`mmseg_invattn.layers.export`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from .. import choices
from ..layers.export import export_onnx, export_torch
from .finite_outputs import check_outputs

NOT_EXPORTED = """Not exported:
- the inverse of the attention, its error bounds and log-determinants: use the model in PyTorch;
- the certificates: the weights in the file are the certified ones, but nothing there computes or checks a bound;
- training, test-time augmentation and sliding windows;
- loading, resizing and normalising the image, and the argmax over the classes, or sigmoid and threshold of one channel.
Attention in the file holds its N x M map: at large images it takes the memory that the kernels of PyTorch save."""

# format -> (function of the model, an image and a path; suffix of the file)
FORMATS = dict(
    onnx=(partial(export_onnx, input_names=['image'], output_names=['logits']), '.onnx'),
    torch_export=(export_torch, '.pt2'),
)
assert tuple(FORMATS) == choices.EXPORT_FORMATS


class ForwardPass(nn.Module):
    """Preprocessed images (B, C, H, W) -> logits (B, out_channels, H, W), as whole-image inference computes them.

    Args:
        segmentor: an ``EncoderDecoder`` of MMSegmentation.
    """

    def __init__(self, segmentor: nn.Module):
        super().__init__()
        self.segmentor = segmentor.requires_grad_(False)
        self.eval()

    @torch.no_grad()
    def check(self, image: Tensor) -> None:
        """Refuse a model whose logits are not finite.

        Raises:
            NonFiniteOutputError: They are NaN or infinite.
        """
        check_outputs(dict(logits=self(image)))

    def forward(self, image: Tensor) -> Tensor:
        size = tuple(image.shape[2:])
        return self.segmentor.encode_decode(image, [dict(img_shape=size, pad_shape=size, ori_shape=size)])


@torch.no_grad()
def difference(model: nn.Module, exported: Callable[[Tensor], Tensor], image: Tensor) -> tuple[float, float]:
    """(largest difference of the logits, largest logit) of the model and its export on an image."""
    logits = model(image).cpu()
    return float((exported(image).cpu() - logits).abs().max()), float(logits.abs().max())
