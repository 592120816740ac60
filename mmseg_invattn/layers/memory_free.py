"""Training without stored activations."""
import torch
from torch import Tensor

from ..ops import Roulette, Step, at_least_float32, memory_free
from .base import InverseInfo, InvertibleModule, check_features
from .sequential import InvertibleSequential, outputs


class MemoryFree(InvertibleModule):
    """Any invertible layer or sequence, with a backward pass that recovers the activations from the output.

    Between forward and backward only y is held; the backward pass holds the graph of one layer of a sequence at a
    time. The price is one inverse and one more forward pass for each layer. Gradients are those of the plain module to
    the accuracy of the inverse.

    While the inverse of a residual layer runs, its acceleration holds about 25 feature maps of that layer's input: the
    gain begins where the stored activations of the whole sequence exceed that. Couplings have no such cost.

    * Wrap the sequence, not its layers one by one: every wrapper keeps its own output.
    * Under AMP everything inside runs in float32 or higher, and so is y: a stream that is to be recovered must not be
      rounded.
    * Under DistributedDataParallel gradients arrive as usual. Under ``torch.compile`` of the surrounding model the call
      is a graph break. A second derivative through it is refused.

    Args:
        module: layer or sequence; its parameters stay under the name ``module``.
        tol: tolerance of the inverse in the backward pass; by default the precision of the dtype.
        max_iter: its largest number of evaluations for each layer.

    Raises:
        NotConvergedError: in backward, where the inverse does not meet ``tol``: rather no gradient than a wrong one.
    """

    def __init__(self, module: InvertibleModule, tol: float | None = None, max_iter: int = 1000):
        super().__init__()
        if not isinstance(module, InvertibleModule):
            raise ValueError(f'MemoryFree got a {type(module).__name__}, which is not invertible: it takes an '
                             'InvertibleModule or an InvertibleSequential')
        self.module, self.tol, self.max_iter = module, tol, max_iter
        self.extra_outputs = module.extra_outputs

    @torch.compiler.disable
    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        check_features(x, None)
        y = memory_free(tuple(self._steps(self.module)), at_least_float32(x))
        return y if self.extra_outputs else y[0]

    def _steps(self, module: InvertibleModule) -> list[Step]:
        if isinstance(module, MemoryFree):
            return self._steps(module.module)
        if isinstance(module, InvertibleSequential):
            return [step for layer in module for step in self._steps(layer)]

        def recover(y: tuple[Tensor, ...]) -> Tensor:
            tol = torch.finfo(y[0].dtype).eps if self.tol is None else self.tol
            return module.recover_input(y if module.extra_outputs else y[0], tol, self.max_iter)

        return [Step(lambda x: outputs(module(x)), recover, tuple(module.parameters()), module.extra_outputs)]

    def inverse(self, y: Tensor | tuple[Tensor, ...], tol: float = 1e-6, max_iter: int = 100,
                strict: bool = True) -> tuple[Tensor, InverseInfo]:
        return self.module.inverse(y, tol, max_iter, strict)

    def lipschitz_bound(self) -> float | None:
        return self.module.lipschitz_bound()

    def bi_lipschitz_bound(self) -> tuple[float, float]:
        return self.module.bi_lipschitz_bound()

    def inverse_error(self, x: Tensor, error: Tensor, within: Tensor | float = 0.0) -> Tensor:
        return self.module.inverse_error(x, error, within)

    def error_norm(self, x: Tensor) -> Tensor:
        return self.module.error_norm(x)

    def pixel_error(self, x: Tensor, error: Tensor) -> Tensor:
        return self.module.pixel_error(x, error)

    def log_abs_det(self, x: Tensor, n_terms: int | str | Roulette = 10, n_samples: int = 1) -> Tensor:
        """As the module's; its graph is stored."""
        return self.module.log_abs_det(x, n_terms, n_samples)

    def log_abs_det_error_bound(self, x: Tensor, n_terms: int | str | Roulette = 10) -> float | None:
        return self.module.log_abs_det_error_bound(x, n_terms)
