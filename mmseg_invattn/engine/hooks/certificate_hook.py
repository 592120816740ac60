"""Checks the certificates of invertible blocks while a model trains, and stops the run if one does not hold."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmseg.registry import HOOKS
from torch import Tensor, nn

from ...layers import ExplicitInverse, InverseInfo, InvertibleModule, ResidualLayer
from ...layers.checks import check_count
from ...layers.data_dependent import DataDependentStart
from ...wording import counted
from ..sharding import is_sharded

# A bound is the contraction and the rounding of its weights in float32, which grows with the root of their size: a few
# dozen eps in attention, 200 in residual convolutions of 1024 channels.
ROUNDING = 1024 * torch.finfo(torch.float32).eps


@HOOKS.register_module()
class CertificateHook(Hook):
    """Log the certified numbers of every invertible block, and stop the run if a certificate is broken.

    - Every ``interval`` iterations ``certificate/BLOCK/bound`` (the certified Lipschitz bound), ``/sharpness`` (the
      largest over the heads) and ``/saturated`` (share of the tokens, in the batch of this iteration, that the ball of
      the scores clips) go to the visualisation backends and the message hub, not to the terminal.
    - At validation some images are inverted, and the worst values over these go to the same places:
      ``certificate/BLOCK/inverse_error`` and ``/error_bound`` in the norm of the block, the same relative to the
      features as ``/relative_error`` and ``/relative_bound``, and ``/evaluations``. For a residual layer there are also
      the three terms of its bound, ``(residual + rounding) / (1 - local_bound)``. The worst values over all blocks are
      metrics, ``val/certificate/inverse_error`` and so on.

    Blocks are the residual layers (attention in the certified, conditional and paper form, channel attention, residual
    convolutions) and the couplings. BLOCK is the name of the module in the model; each member of a sequence is a block.
    A number that a block does not have (a bound in the paper form, a sharpness in a coupling) is left out, and the log
    says so once. Only rank 0 measures. In a model without an invertible block the hook does nothing.

    Args:
        interval: training iterations between two measurements; nothing is computed in between.
        max_val_images: number of feature maps that are inverted at each validation, for each block; 0: none.
        tol: tolerance of these inverses, see :meth:`~mmseg_invattn.layers.InvertibleModule.inverse`.
        max_iter: their largest number of evaluations.

    Raises:
        RuntimeError: during the run, for a bound above the contraction, an inverse error above its bound, or a
            certified inverse that does not converge. The message names block, bound, rule and iteration.
    """

    priority = 'NORMAL'  # before the logger, and before the checkpoint hook, so that a failure writes no checkpoint

    def __init__(self, interval: int = 200, max_val_images: int = 8, tol: float = 1e-6, max_iter: int = 1000):
        check_count('interval', interval)
        check_count('max_iter', max_iter)
        if max_val_images < 0:
            raise ValueError(
                f'max_val_images={max_val_images} is negative: give the number of feature maps to invert '
                'at each validation, or 0 for none'
            )
        self.interval, self.max_val_images, self.tol, self.max_iter = interval, max_val_images, tol, max_iter
        self._watched: list = []  # handles of forward hooks
        self._found: dict[str, list[dict]] = {}  # their measurements

    def before_train(self, runner) -> None:
        """Log the invertible blocks, and which of them have no certificate.

        Raises:
            RuntimeError: FSDP shards a block whose normalisation has not been initialised; it would never be.
        """
        alike: dict[tuple, list[str]] = {}
        for name, block in invertible_blocks(runner.model).items():
            _check_start(name, block)
            alike.setdefault((type(block).__name__, getattr(block, 'contraction', None)), []).append(name)
        for (kind, contraction), names in alike.items():
            which = names[0] if len(names) == 1 else f'{len(names)} blocks, {names[0]} to {names[-1]}'
            runner.logger.info(
                f'CertificateHook: {which}, {kind}: '
                + (
                    'no certified Lipschitz bound; the inverse is checked against its error bound, if it has one'
                    if contraction is None
                    else f'certified Lipschitz bound {contraction:g}'
                )
            )

    def before_train_iter(self, runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Watch the forward pass of every ``interval``-th iteration."""
        if self.every_n_train_iters(runner, self.interval):
            self._watch(runner, lambda name, block, x, y: self._measure(name, block, x, runner.iter + 1))

    def after_train_iter(
        self, runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Log the measurements."""
        if not self.every_n_train_iters(runner, self.interval) or not is_main_process():
            return
        for name, block in invertible_blocks(runner.model).items():
            # Compiled code does not call hooks that were added later; then the share of saturated tokens is missing.
            if name not in self._found and not is_sharded(block):
                self._measure(name, block, None, runner.iter + 1)
        scalars = {
            f'certificate/{name}/{key}': value
            for name, found in self._found.items()
            for key, value in found[-1].items()
        }
        self._unwatch()
        _log(runner, scalars, runner.iter + 1)

    def before_val_epoch(self, runner) -> None:
        """Watch the forward passes of the validation."""
        if self.max_val_images:
            self._watch(runner, lambda name, block, x, y: self._invert(name, block, x, y, runner.iter))

    def after_val_epoch(self, runner, metrics: dict | None = None) -> None:
        """Log the worst of all images for every block, and put the worst of all blocks among the metrics."""
        scalars, worst_of_all = {}, {}
        for name, batches in self._found.items():
            for key in [key for key in batches[0] if key != 'images']:
                worst = max(batch[key] for batch in batches)
                if not math.isnan(worst):
                    scalars[f'certificate/{name}/{key}'] = worst
                    worst_of_all[key] = max(worst, worst_of_all.get(key, worst))
        self._unwatch()
        _log(runner, scalars, runner.iter)
        for key, value in worst_of_all.items():
            runner.message_hub.update_scalar(f'val/certificate/{key}', value)

    def _watch(self, runner, measure: Callable) -> None:
        self._unwatch()
        if not is_main_process():
            return
        for name, block in invertible_blocks(runner.model).items():
            # Prepended, because FSDP's own hook frees the weights of a sharded block afterwards.
            self._watched.append(
                block.register_forward_hook(
                    lambda block, args, y, name=name: measure(name, block, args[0].detach(), y.detach()), prepend=True
                )
            )

    def _unwatch(self) -> None:
        for handle in self._watched:
            handle.remove()
        self._watched, self._found = [], {}

    @torch.no_grad()
    def _measure(self, name: str, block: InvertibleModule, x: Tensor | None, iteration: int) -> None:
        """Bound, sharpness and, if the input of the block is given, the share of saturated tokens."""
        n_pixels = None if x is None else x.shape[2] * x.shape[3]
        found = {}
        try:
            bound = block.lipschitz_bound(n_pixels)
        except ValueError as error:
            raise RuntimeError(f'{name}, in iteration {iteration}: {error}') from error
        if isinstance(block, ResidualLayer) and bound is not None:
            found['bound'] = bound
            _check_bound(name, bound, getattr(block, 'contraction', 1.0), iteration)
        sharpness = getattr(block, 'sharpness', None)
        if sharpness is not None and (n_pixels or not sharpness.depends_on_n):
            found['sharpness'] = float(sharpness.at(sharpness(), n_pixels, next(block.parameters())).max())
        if hasattr(block, 'saturation') and x is not None:
            found['saturated'] = float(block.saturation(x).mean())
        self._found[name] = [found]

    @torch.no_grad()
    def _invert(self, name: str, block: InvertibleModule, x: Tensor, y: Tensor, iteration: int) -> None:
        """The worst values over the samples of a batch, of at most as many samples as are still wanted."""
        batches = self._found.setdefault(name, [])
        room = self.max_val_images - sum(batch['images'] for batch in batches)
        if room <= 0:
            return
        explicit = isinstance(block, ExplicitInverse)
        # the sub-networks of a coupling may round differently in a batch of another size
        x_hat, info = block.inverse(y if explicit else y[:room], self.tol, self.max_iter, strict=False)
        x_hat, info = x_hat[:room], info.first(room)
        x = x[:room].double()
        error, size = block.error_norm(x_hat.double() - x), block.error_norm(x)
        size = size.clamp(min=torch.finfo(size.dtype).tiny)
        bound = None if explicit else block.lipschitz_bound()
        _check_inverse(name, error, info, bound, iteration, self.max_iter)
        found = dict(
            images=len(x),
            inverse_error=float(error.max()),
            error_bound=float(info.error_bound.max()),
            relative_error=float((error / size).max()),
            relative_bound=float((info.error_bound / size).max()),
            evaluations=int(info.iterations.max()),
        )
        if not explicit:
            parts = dict(residual=info.residual, rounding=info.rounding, local_bound=info.lipschitz)
            found |= {key: float(value.max()) for key, value in parts.items()}
        batches.append(found)


def invertible_blocks(model: nn.Module) -> dict[str, InvertibleModule]:
    """Every block of a model whose inverse has its own error, by the name of its module."""
    model = model.module if is_model_wrapper(model) else model
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, ResidualLayer) or isinstance(module, ExplicitInverse) and module.evaluations
    }


def _log(runner, scalars: dict[str, float], step: int) -> None:
    """Every block goes to the visualisation backends and the message hub; a deep network would fill the terminal."""
    for key, value in scalars.items():
        runner.message_hub.update_scalar(key, value)
    if scalars:
        runner.visualizer.add_scalars(scalars, step=step)


def _check_start(name: str, block: InvertibleModule) -> None:
    starts = (module for module in block.modules() if isinstance(module, DataDependentStart))
    if is_sharded(block) and not all(module.initialised for module in starts):
        raise RuntimeError(
            f'{name}: its normalisation is initialised by the first training batch, but FSDP discards what a forward '
            'pass writes into parameters: start from a checkpoint (load_from) of one iteration of training without '
            'FSDP, or run one forward pass in training mode before the model is sharded'
        )


def _check_bound(name: str, bound: float, contraction: float, iteration: int) -> None:
    if not bound <= contraction * (1 + ROUNDING):  # written so that NaN fails too
        raise RuntimeError(
            f'{name}: the certified Lipschitz bound is {bound:.8g} in iteration {iteration}, but it must never exceed '
            f'contraction={contraction:g}. Possible causes are weights that are not finite (lower the learning rate or '
            'clip the gradients) and code that writes to .data of a parameter; otherwise please report it'
        )


def _check_inverse(
    name: str, error: Tensor, info: InverseInfo, bound: float | None, iteration: int, max_iter: int
) -> None:
    where = f'at the validation of iteration {iteration} (certified Lipschitz bound {bound})'
    if bound is not None and not info.converged.all():
        raise RuntimeError(
            f'{name}: an inverse did not converge within {counted(max_iter, "evaluation")}, largest residual '
            f'{float(info.residual.max()):.3g}, {where}, but the inverse of a certified block must. It takes more '
            'evaluations near a contraction of 1: raise max_iter of CertificateHook, or lower the contraction'
        )
    excess = error > info.error_bound  # False if there is no bound, because that is NaN
    if excess.any():
        raise RuntimeError(
            f'{name}: the error of an inverse is {float(error[excess][0]):.3g} {where}, but it must stay below the '
            f'reported bound, {float(info.error_bound[excess][0]):.3g}. The forward pass of the block and its inverse '
            'do not belong to the same map: check what was changed in its code'
        )
