"""Training without stored activations."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..ops import Move, Roulette, Step, memory_free, untraced
from .checks import check_features
from .constant_weights import weights_of
from .contract import InverseInfo, InvertibleModule
from .parameters import compute_dtype


class MemoryFree(InvertibleModule):
    """Wraps any invertible layer or sequence; its backward pass recovers the activations from the output.

    Between forward and backward pass only y is in memory; the backward pass holds the graph of one layer of a sequence
    at a time. Gradients are those of the plain module, up to the accuracy of the inverse.

    * A coupling costs one more forward pass: its sub-network is evaluated once in the backward pass, and this one
      evaluation serves both to recover x and to compute the gradient. Through successive couplings the two parts of the
      channels stay separate and are changed in place.
    * Other layers cost one inverse and one more forward pass, which share the derived weights. The inverse of a
      residual layer starts at the mean of x over the pixels (C numbers per sample, which the forward pass keeps), so
      that usually a few plain steps are enough. If plain steps are slow, the acceleration needs about 25 feature maps
      of the size of that layer's input: then memory is saved only if the stored activations of the whole sequence
      would exceed that.
    * Wrap the sequence, not its layers one by one: every wrapper keeps its own output.
    * Under AMP y is float32 or higher: a stream that is to be recovered must not be rounded. So is everything inside,
      except the branches of attention with ``precision='autocast'``: they follow the autocast settings of the forward
      pass, also when the backward pass evaluates them again.
    * Under DistributedDataParallel gradients are reduced as usual. Under ``torch.compile`` of the surrounding model the
      call is a graph break. A second derivative raises an error. Without gradients, in an exported program, inside
      transforms of ``torch.func`` and in the replicas of DataParallel, calls run the plain module.
    * The backward pass draws the random numbers of a sub-network (stochastic depth, dropout) again, with the same
      values.

    Args:
        module: layer or sequence; its parameters stay under the name ``module``.
        tol: tolerance of the inverse in the backward pass; by default the precision of the dtype.
        max_iter: largest number of evaluations of that inverse, for each layer.

    Raises:
        NotConvergedError: in the backward pass, if the inverse of a residual layer does not meet ``tol``, because the
            gradient would be wrong.
        RuntimeError: in the backward pass, if parameters or buffers have changed since the forward pass. Autograd's
            version counters detect that, and on the CPU a comparison of the values.
    """

    def __init__(self, module: InvertibleModule, tol: float | None = None, max_iter: int = 1000):
        super().__init__()
        if not isinstance(module, InvertibleModule):
            raise ValueError(
                f'MemoryFree got a {type(module).__name__}, which is not invertible: it takes an '
                'InvertibleModule or an InvertibleSequential'
            )
        self.module, self.tol, self.max_iter = module, tol, max_iter
        self.extra_outputs = module.extra_outputs

    def weights(self) -> Any:
        return weights_of(self.module)

    def forward(self, x: Tensor, weights: Any = None) -> Tensor | tuple[Tensor, ...]:
        return untraced(self._forward)(x, weights)

    def _forward(self, x: Tensor, weights: Any) -> Tensor | tuple[Tensor, ...]:
        check_features(x, None)
        wide = x.to(compute_dtype(self.module, x))
        # in a replica of DataParallel, module.parameters() is empty
        if (
            weights is not None
            or not torch.is_grad_enabled()
            or torch.compiler.is_compiling()
            or torch._C._are_functorch_transforms_active()
            or getattr(self, '_is_replica', False)
        ):
            return self.module(wide, weights)
        y = memory_free(self.steps(self.tol, self.max_iter), wide)
        return y if self.extra_outputs else y[0]

    def steps(self, tol: float | None, max_iter: int) -> Sequence[Step | Move]:
        return self.module.steps(tol, max_iter)

    def inverse(
        self,
        y: Tensor | tuple[Tensor, ...],
        tol: float = 1e-6,
        max_iter: int = 100,
        strict: bool = True,
        weights: Any = None,
        certify: bool = True,
        error: Tensor | None = None,
    ) -> tuple[Tensor, InverseInfo]:
        return self.module.inverse(y, tol, max_iter, strict, weights, certify, error)

    def lipschitz_bound(self, n: int | None = None) -> float | None:
        return self.module.lipschitz_bound(n)

    def bi_lipschitz_bound(self) -> tuple[float, float]:
        return self.module.bi_lipschitz_bound()

    def inverse_error(self, x: Tensor, error: Tensor, within: Tensor | float = 0.0, weights: Any = None) -> Tensor:
        return self.module.inverse_error(x, error, within, weights)

    def error_norm(self, x: Tensor) -> Tensor:
        return self.module.error_norm(x)

    def pixel_error(self, x: Tensor, error: Tensor) -> Tensor:
        return self.module.pixel_error(x, error)

    def forward_and_log_abs_det(
        self, x: Tensor, n_terms: int | str | Roulette = 10, n_samples: int = 1, weights: Any = None
    ) -> tuple[Tensor | tuple[Tensor, ...], Tensor]:
        """As for the module itself; its graph is stored."""
        return self.module.forward_and_log_abs_det(x, n_terms, n_samples, weights)

    def log_abs_det_error_bound(self, x: Tensor, n_terms: int | str | Roulette = 10) -> Tensor | None:
        return self.module.log_abs_det_error_bound(x, n_terms)
