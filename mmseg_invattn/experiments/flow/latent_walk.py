"""Pictures of a flow: a walk between images in its latent space."""

import torch
from torch import Tensor

from ...models.flows import InvResNetFlow


@torch.no_grad()
def interpolate(model: InvResNetFlow, first: Tensor, second: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Images whose latents lie on the straight line between those of two images.

    Args:
        model: the flow.
        first: images at the starts of the lines, (B, 3, H, W).
        second: images at the ends of the lines, same shape.
        steps: number of images on a line, including both ends.

    Returns:
        Images (B, steps, 3, H, W), and the largest error of a value at the two ends, (B, 2): the ends are decoded from
        their latents like the other images.

    Raises:
        ValueError: fewer than two steps.
    """
    if steps < 2:
        raise ValueError(f'steps={steps} must be at least 2, because a line has two ends')
    lines = [_line(a, b, steps) for a, b in zip(model(first), model(second), strict=True)]
    images = model.decode(lines)[0].unflatten(0, (len(first), steps))
    ends = torch.stack([images[:, 0] - first, images[:, -1] - second], 1)
    return images, ends.abs().flatten(2).amax(2)


def _line(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """Points on the lines from a to b: (B, ...) and (B, ...) -> (B steps, ...)."""
    weight = torch.linspace(0, 1, steps, dtype=a.dtype, device=a.device).view(-1, *[1] * (a.dim() - 1))
    return torch.lerp(a[:, None], b[:, None], weight).flatten(0, 1)
