"""Exports a layer, or a function of :mod:`mmseg_invattn.ops`, to a file for programs that do not have this package.

    export_onnx(CertifiedAttention2d(64).eval(), torch.randn(1, 64, 16, 16), 'block.onnx')

Exported graphs contain only torch's plain operators: attention with its N x M map instead of the kernels of this
package, and the normalised weights instead of the normalisation (certificates are computed from the same weights).
"""

import io
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, nn

from ..ops import twice_differentiable
from .constant_weights import constant_weights

Outputs = Tensor | tuple[Tensor, ...]


class Function(nn.Module):
    """Wraps a function of tensors as a module, because torch exports modules."""

    def __init__(self, function: Callable[..., Outputs]):
        super().__init__()
        self.function = function
        self.eval()

    def forward(self, *inputs: Tensor) -> Outputs:
        return self.function(*inputs)


def export_torch(
    model: Callable[..., Outputs], inputs: Tensor | tuple[Tensor, ...], path: str | Path
) -> Callable[..., Outputs]:
    """Writes a ``torch.export`` program for inputs of these sizes and any batch size.

    Args:
        model: a module in evaluation mode, or a function.
        inputs: examples; their first dimension is the batch.
        path: path of the file.

    Returns:
        The program, loaded from the file.

    Raises:
        ValueError: the module, or one in it, is in training mode.
    """
    # torch's own writer aborts the process some time after it has failed on a full disk
    stream = io.BytesIO()
    torch.export.save(_traced(model, _several(inputs)), stream)
    Path(path).write_bytes(stream.getvalue())
    return torch.export.load(path).module()


def export_onnx(
    model: Callable[..., Outputs],
    inputs: Tensor | tuple[Tensor, ...],
    path: str | Path,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> Callable[..., Outputs]:
    """Writes an ONNX file for inputs of these sizes and any batch size.

    Args:
        model: as for :func:`export_torch`.
        inputs: as for :func:`export_torch`.
        path: as for :func:`export_torch`.
        input_names: names of the inputs in the file; None lets torch choose.
        output_names: names of the outputs in the file; None lets torch choose.

    Returns:
        The program, loaded from the file in onnxruntime on the CPU.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is missing.
        ValueError: as for :func:`export_torch`.
    """
    try:
        onnxruntime, _ = import_module('onnxruntime'), import_module('onnxscript')  # torch.onnx needs the second
    except ImportError as error:
        raise ImportError(
            f'ONNX export needs {error.name}, which is not installed: pip install onnx onnxscript onnxruntime'
        ) from error
    examples = _several(inputs)
    torch.onnx.export(
        _traced(model, examples),
        examples,
        str(path),
        dynamo=True,
        input_names=input_names,
        output_names=output_names,
        external_data=False,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    names = [one.name for one in session.get_inputs()]

    def run(*inputs: Tensor) -> Outputs:
        arrays = session.run(None, dict(zip(names, (one.cpu().numpy() for one in inputs), strict=True)))
        outputs = tuple(map(torch.from_numpy, arrays))
        return outputs[0] if len(outputs) == 1 else outputs

    return run


def _several(inputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (inputs,) if isinstance(inputs, Tensor) else inputs


@torch.no_grad()
def _traced(model: Callable[..., Outputs], inputs: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    module = model if isinstance(model, nn.Module) else Function(model)
    training = [name or type(module).__name__ for name, part in module.named_modules() if part.training]
    if training:
        raise ValueError(
            f'{training[0]} is in training mode, but only evaluation mode can be exported: call .eval() on the '
            'module first'
        )
    # Two samples, because with a batch of one the exporter would fix the batch size to one.
    doubled = tuple(one.repeat(2, *[1] * (one.dim() - 1)) for one in inputs)
    dims = tuple({0: torch.export.Dim('batch')} for _ in inputs)
    with twice_differentiable(), constant_weights(module):
        return torch.export.export(
            module, doubled, dynamic_shapes=(dims,) if isinstance(module, Function) else dims, strict=False
        )
