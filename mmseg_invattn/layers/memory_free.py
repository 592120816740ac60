"""Training without stored activations."""

from typing import Any

import torch
from torch import Tensor

from ..ops import Roulette, Step, memory_free, untraced
from .constant_weights import weights_of
from .contract import InverseInfo, InvertibleModule, check_features
from .parameters import compute_dtype


class MemoryFree(InvertibleModule):
    """Any invertible layer or sequence, with a backward pass that recovers the activations from the output.

    Between forward and backward only y is held; the backward pass holds the graph of one layer of a sequence at a
    time. Gradients are those of the plain module to the accuracy of the inverse.

    * Couplings cost one more forward pass: their sub-networks are evaluated once in the backward pass, and that value
      recovers x and is differentiated. In a row of them the two parts of the channels stay apart and change in place.
    * Other layers cost one inverse and one more forward pass, which share the derived weights. The inverse of a
      residual layer begins at the mean of x over the pixels, C numbers of a sample that the forward pass keeps, from
      where a few plain steps do. Where those are slow, its acceleration holds about 25 feature maps of that layer's
      input: then the gain begins where the stored activations of the whole sequence exceed that.
    * Wrap the sequence, not its layers one by one: every wrapper keeps its own output.
    * Under AMP y is float32 or higher: a stream that is to be recovered must not be rounded. So is everything inside,
      but for the branches of attention with ``precision='autocast'``: they follow autocast, that of the forward pass,
      also when the backward pass evaluates them again.
    * Under DistributedDataParallel gradients arrive as usual. Under ``torch.compile`` of the surrounding model the call
      is a graph break. A second derivative through it is refused. Without gradients, in an exported program and inside
      transforms of ``torch.func`` it is the plain module.
    * In the replicas of DataParallel it is the plain module too.
    * Random numbers of a sub-network (stochastic depth, dropout) are drawn again in the backward pass.

    Args:
        module: layer or sequence; its parameters stay under the name ``module``.
        tol: tolerance of the inverse in the backward pass; by default the precision of the dtype.
        max_iter: its largest number of evaluations for each layer.

    Raises:
        NotConvergedError: in backward, where the inverse of a residual layer does not meet ``tol``: rather no gradient
            than a wrong one.
        RuntimeError: in backward, where parameters or buffers are no longer those of the forward pass, as far as
            autograd counts their changes, or on the CPU their values say so.
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
        # replicas of DataParallel have no parameters to ask for
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

    def steps(self, tol: float | None, max_iter: int) -> list[Step]:
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
        """As the module's; its graph is stored."""
        return self.module.forward_and_log_abs_det(x, n_terms, n_samples, weights)

    def log_abs_det_error_bound(self, x: Tensor, n_terms: int | str | Roulette = 10) -> Tensor | None:
        return self.module.log_abs_det_error_bound(x, n_terms)
