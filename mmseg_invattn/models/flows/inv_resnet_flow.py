"""Density of images from an invertible network.

The network is that of Behrmann et al., https://arxiv.org/abs/1811.00995. Attention is placed as in Zha et al.,
https://arxiv.org/abs/2106.09003: after the blocks of a scale, before its split.

    log p(x) = log p_Z(f(x)) + log|det df/dx|,     bits/dim = -log2 p(x) / dims + 8

The 8 bits are there because values of 8 bits, dequantised with noise, are scaled to an interval of length 1. The error
of a series truncated after n terms is at most
:meth:`~mmseg_invattn.layers.InvertibleModule.log_abs_det_error_bound` in expectation; Russian roulette has no bias.
"""

import math
from collections.abc import Sequence

import torch
from mmengine.model import BaseModel
from mmseg.registry import MODELS
from torch import Tensor

from ...layers import InverseInfo
from ...ops import Roulette
from .encode import encode
from .inv_reconstruction import reconstruct
from .prior import NormalPrior


@MODELS.register_module()
class InvResNetFlow(BaseModel):
    """Normalising flow whose transformation is an invertible backbone, ``InvResNet`` for the one of the paper.

    It is trained by maximum likelihood; ``forward(mode='loss')`` returns the mean of the bits per dimension.

    Args:
        backbone: config of the backbone; its outputs at all scales are the latents. With ``memory_free=True``
            activations are recovered in training.
        image_size: height and width of the images, for sampling.
        num_classes: number of classes of the prior; None is one standard normal.
        n_terms: of the log-determinant in training: a number of terms, or ``'roulette'``.
        n_samples: probes in training.
        test_cfg: settings for testing: ``n_terms`` and ``n_samples``, by default as in training, and
            ``reconstruct=True`` to run the images forward and back as well.
        tol: see :meth:`~mmseg_invattn.layers.InvertibleModule.inverse`.
        max_iter: see :meth:`~mmseg_invattn.layers.InvertibleModule.inverse`.
        data_preprocessor: as in every ``BaseModel``.
        init_cfg: as in every ``BaseModel``.
    """

    def __init__(
        self,
        backbone: dict,
        image_size: tuple[int, int] = (32, 32),
        num_classes: int | None = None,
        n_terms: int | str | Roulette = 5,
        n_samples: int = 1,
        test_cfg: dict | None = None,
        tol: float = 1e-6,
        max_iter: int = 1000,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(data_preprocessor, init_cfg)
        unknown = set(test_cfg or {}) - {'n_terms', 'n_samples', 'reconstruct'}
        if unknown:
            raise ValueError(f'test_cfg takes no {sorted(unknown)}: it takes n_terms, n_samples and reconstruct')
        self.backbone = MODELS.build(backbone)
        self.prior = NormalPrior(self.backbone.out_channels, num_classes)
        self.image_size, self.tol, self.max_iter = tuple(image_size), tol, max_iter
        self.n_terms, self.n_samples = n_terms, n_samples
        self.test_cfg = dict(n_terms=n_terms, n_samples=n_samples, reconstruct=False) | dict(test_cfg or {})

    def forward(
        self, inputs: Tensor, labels: Tensor | None = None, mode: str = 'tensor'
    ) -> tuple[Tensor, ...] | dict | list[dict]:
        """Latents, loss or bits per dimension.

        Args:
            inputs: images (B, 3, H, W) in [-0.5, 0.5).
            labels: their classes (B,), for a prior with classes.
            mode: ``'tensor'`` for the latents, ``'loss'`` for the loss, ``'predict'`` for a dict for every image, with
                ``bits_per_dim`` and ``bias_bound`` in the same unit (NaN if there is no bound).
        """
        if mode == 'tensor':
            return self.backbone(inputs)
        if mode == 'loss':
            log_p = self.log_prob(inputs, labels, self.n_terms, self.n_samples)
            return dict(loss=self.bits_per_dim(log_p, inputs).mean())
        if mode != 'predict':
            raise ValueError(f"mode={mode!r} is unknown: choose one of 'tensor', 'loss', 'predict'")
        n_terms = self.test_cfg['n_terms']
        with torch.no_grad():
            log_p = self.log_prob(inputs, labels, n_terms, self.test_cfg['n_samples'])
        bits = self.bits_per_dim(log_p, inputs).tolist()
        bound = self.backbone.log_abs_det_error_bound(inputs, n_terms)
        bound = torch.full((len(bits),), math.nan) if bound is None else bound / (inputs[0].numel() * math.log(2))
        results = [dict(bits_per_dim=a, bias_bound=b) for a, b in zip(bits, bound.tolist(), strict=True)]
        if self.test_cfg['reconstruct']:
            back = reconstruct(self.backbone.flow, inputs, self.tol, self.max_iter)
            results = [a | b for a, b in zip(results, back, strict=True)]
        return results

    def log_prob(
        self, x: Tensor, labels: Tensor | None = None, n_terms: int | str | Roulette = 'roulette', n_samples: int = 1
    ) -> Tensor:
        """log p(x) in nats, shape (B,); an estimate unless ``n_terms='exact'``."""
        (last, *latents), log_det = encode(self.backbone.flow, x, n_terms, n_samples, self.backbone.memory_free)
        return self.prior.log_prob((*latents, last), labels) + log_det

    @staticmethod
    def bits_per_dim(log_p: Tensor, x: Tensor) -> Tensor:
        """``-log2 p(x) / dims + 8``, shape (B,)."""
        return 8 - log_p / (x[0].numel() * math.log(2))

    def decode(self, latents: Sequence[Tensor]) -> tuple[Tensor, InverseInfo]:
        """Images from latents in the order of ``forward(mode='tensor')``, with the report of the inverse."""
        return self.backbone.inverse(latents, self.tol, self.max_iter, strict=False)

    @torch.no_grad()
    def sample(
        self, num: int, temperature: float = 1.0, labels: Tensor | None = None, seed: int = 0
    ) -> tuple[Tensor, InverseInfo]:
        """Draws images, (num, 3, H, W).

        Args:
            num: number of images.
            temperature: factor of the prior's scale; below 1 images are closer to the mode and less varied.
            labels: classes, (num,); by default a prior with classes uses them in turn.
            seed: seed of the random numbers.

        Raises:
            ValueError: an argument breaks its rule.
        """
        if num < 1 or not 0 <= temperature < math.inf:
            raise ValueError(f'num={num} must be at least 1, and temperature={temperature} finite and at least 0')
        device = next(self.parameters()).device
        if labels is None and self.prior.num_classes is not None:
            labels = torch.arange(num, device=device) % self.prior.num_classes
        shapes = [
            (num, channels, self.image_size[0] // stride, self.image_size[1] // stride)
            for channels, stride in zip(self.backbone.out_channels, self.backbone.out_strides, strict=True)
        ]
        generator = torch.Generator().manual_seed(seed)
        latents = self.prior.sample(shapes, labels, temperature, generator)
        return self.decode([z.to(device) for z in latents])
