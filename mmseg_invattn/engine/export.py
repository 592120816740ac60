"""The forward pass of a segmentor, preprocessed image -> logits, for programs that have neither this package nor mmseg.

Exported graphs hold torch's plain operators alone: attention with its N x M map in place of this package's kernels, and
the normalised weights in place of the normalisation (certificates are made of those same weights).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ..layers import constant_weights
from ..ops import twice_differentiable

NOT_EXPORTED = """Not exported:
- the inverse of the attention, its error bounds and log-determinants: use the model in PyTorch;
- the certificates: the weights in the file are the certified ones, but nothing there computes or checks a bound;
- training, test-time augmentation and sliding windows;
- loading, resizing and normalising the image, and the argmax over the classes.
Attention in the file holds its N x M map: at large images it takes the memory that the kernels of PyTorch save."""


class ForwardPass(nn.Module):
    """Preprocessed images (B, 3, H, W) -> logits (B, num_classes, H, W), as whole-image inference computes them.

    Args:
        segmentor: an ``EncoderDecoder`` of MMSegmentation.
    """

    def __init__(self, segmentor: nn.Module):
        super().__init__()
        self.segmentor = segmentor.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        size = tuple(image.shape[2:])
        return self.segmentor.encode_decode(image, [dict(img_shape=size, pad_shape=size, ori_shape=size)])


def export_torch(model: nn.Module, image: Tensor, path: Path) -> Callable[[Tensor], Tensor]:
    """Writes a program of ``torch.export`` for images of this size and any batch size.

    Returns:
        The file's program, loaded again.
    """
    torch.export.save(_traced(model, image), path)
    return torch.export.load(path).module()


def export_onnx(model: nn.Module, image: Tensor, path: Path) -> Callable[[Tensor], Tensor]:
    """Writes an ONNX file, as :func:`export_torch`; inputs and outputs are called ``image`` and ``logits``.

    Returns:
        The file's program in onnxruntime, on the CPU.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is missing.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  (torch.onnx needs it)
    except ImportError as error:
        raise ImportError(
            f'--format onnx needs {error.name}, which is not installed: pip install onnx onnxscript onnxruntime'
        ) from error
    torch.onnx.export(
        _traced(model, image),
        (image,),
        str(path),
        dynamo=True,
        input_names=['image'],
        output_names=['logits'],
        external_data=False,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    return lambda image: torch.from_numpy(session.run(None, {'image': image.cpu().numpy()})[0])


FORMATS = dict(onnx=(export_onnx, '.onnx'), torch_export=(export_torch, '.pt2'))


@torch.no_grad()
def _traced(model: nn.Module, image: Tensor) -> torch.export.ExportedProgram:
    # Two samples: an exporter takes a batch of one for a batch that is always one.
    images = image.repeat(2, 1, 1, 1)
    with twice_differentiable(), constant_weights(model):
        return torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim('batch')},), strict=False)


@torch.no_grad()
def difference(model: nn.Module, exported: Callable[[Tensor], Tensor], image: Tensor) -> tuple[float, float]:
    """(largest difference of the logits, largest logit) of the model and its export on an image."""
    logits = model(image).cpu()
    return float((exported(image).cpu() - logits).abs().max()), float(logits.abs().max())
