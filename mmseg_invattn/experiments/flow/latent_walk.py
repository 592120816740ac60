"""Pictures of a flow: a walk between images in its latent space."""

import torch
from torch import Tensor

from ...models.flows import InvResNetFlow


@torch.no_grad()
def interpolate(model: InvResNetFlow, first: Tensor, second: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Images whose latents lie on the straight line between those of two images.

    Args:
        model: the flow.
        first: images (B, 3, H, W), the starts of the lines.
        second: their ends.
        steps: images of a line, both ends included.

    Returns:
        Images (B, steps, 3, H, W), and the largest error of a value at the two ends, (B, 2): the ends are recovered as
        the others are.

    Raises:
        ValueError: fewer than two steps.
    """
    if steps < 2:
        raise ValueError(f'steps={steps}: a line has two ends, give at least 2')
    lines = [_line(a, b, steps) for a, b in zip(model(first), model(second), strict=True)]
    images = model.decode(lines)[0].unflatten(0, (len(first), steps))
    ends = torch.stack([images[:, 0] - first, images[:, -1] - second], 1)
    return images, ends.abs().flatten(2).amax(2)


def _line(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """(B, ...) and (B, ...) -> (B steps, ...)."""
    weight = torch.linspace(0, 1, steps, dtype=a.dtype, device=a.device).view(-1, *[1] * (a.dim() - 1))
    return torch.lerp(a[:, None], b[:, None], weight).flatten(0, 1)
