"""A figure of an inversion: input, recovered input, their difference, and the error during the iteration."""

import textwrap
from pathlib import Path

import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

from ...datasets.pictures import to_picture, value_range
from ...visualization.figures import new_figure, save_figure
from ...wording import counted
from .inversion import Inversion

LETTERS = 150  # of a line in the title


def draw_inversion(inversion: Inversion, model: nn.Module, file: Path, note: str | None = None) -> None:
    """Draws the figure into a file.

    Args:
        inversion: the inversion to draw.
        model: as returned by ``init_model``; its config tells how to convert a preprocessed image back to colours.
        file: path of the picture, PNG or another format of matplotlib.
        note: a text to add below the numbers.
    """
    if inversion.is_image:
        pictures, what = image_colours(inversion, model), 'image'
    else:
        pictures, what = feature_colours(inversion.seen, inversion.recovered), 'features (first 3 principal axes)'
    _, _, height, width = inversion.seen.shape
    pixels = 0.5, width + 0.5, height + 0.5, 0.5  # rows and columns count from 1, as in the explorer
    figure = new_figure(12, min(2.2 + 11 * height / width, 16))
    axes = figure.subplots(2, 2).flatten()
    for axis, picture, title in zip(axes, pictures, (f'{what} before', 'recovered by the inverse'), strict=False):
        axis.imshow(picture, interpolation='nearest', extent=pixels)
        axis.set_title(title)
    error_HW = (inversion.recovered - inversion.seen)[0].norm(dim=0)
    shown = axes[2].imshow(error_HW, cmap='magma', vmin=0, interpolation='nearest', extent=pixels)
    figure.colorbar(shown, ax=axes[2], format='%.1e', label='Euclidean norm over the channels')
    axes[2].set_title('error of each pixel')
    for axis in axes[:3]:
        axis.set(xlabel='column', ylabel='row')
    draw_curve(axes[3], inversion)
    figure.suptitle('\n'.join([summary(inversion), *(textwrap.wrap(note, LETTERS) if note else [])]))
    save_figure(figure, file)


def draw_curve(axis: Axes, inversion: Inversion) -> None:
    """Draws the error, its bound and the residual against the evaluations of the branch."""
    counts = [point.evaluations for point in inversion.curve]
    lines = dict(error='error', error_bound='certified bound of the error', residual='residual')
    for (name, label), style in zip(lines.items(), ('o-', 's--', 'v:'), strict=True):
        values = [getattr(point, name) for point in inversion.curve]
        if None not in values:
            axis.plot(counts, [value or float('nan') for value in values], style, label=label, markersize=4)
    if any(line.get_ydata().size and (line.get_ydata() > 0).any() for line in axis.lines):
        axis.set_yscale('log')
    else:
        axis.text(0.5, 0.5, 'exact: error and residual are 0', transform=axis.transAxes, ha='center')
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set(
        xlabel='evaluations allowed for each layer',
        ylabel='norm of the certificate',
        title='error during the iteration',
    )
    axis.grid(alpha=0.3)
    axis.legend()


def summary(inversion: Inversion) -> str:
    """The numbers in two lines, and the parts of the bound in a third."""
    bound = 'no certified bound' if inversion.error_bound is None else f'certified bound {inversion.error_bound:.1e}'
    lipschitz = '' if inversion.lipschitz_bound is None else f', Lipschitz bound {inversion.lipschitz_bound:.4f}'
    state = 'converged' if inversion.converged else 'NOT converged'
    made_of = ''
    if inversion.error_bound is not None and inversion.rounding is not None:
        made_of = (
            f'\nthe bound: residual {inversion.residual:.1e}, rounding of the forward pass in '
            f'{inversion.precision} {inversion.rounding:.1e}'
        )
        if inversion.local_bound is not None:
            made_of += f', divided by 1 - {inversion.local_bound:.3f}, the Lipschitz bound around these features'
    return (
        f'{inversion.name} {tuple(inversion.seen.shape[1:])}: {state} in '
        f'{counted(inversion.iterations, "evaluation")}\n'
        f'error {inversion.error:.1e} ({inversion.relative_error:.1e} of the largest), {bound}{lipschitz}{made_of}'
    )


def image_colours(inversion: Inversion, model: nn.Module) -> list[Tensor]:
    """The image and the recovered image as RGB uint8 (H, W, 3)."""
    steps = model.cfg.model.get('data_preprocessor') or {}
    images = []
    for x in (inversion.seen[0], inversion.recovered[0]):
        if steps.get('mean') is not None:
            mean, std = (x.new_tensor(steps[name])[:, None, None] for name in ('mean', 'std'))
            x = x * std + mean
        if steps.get('bgr_to_rgb') or steps.get('rgb_to_bgr'):  # images are read as BGR
            x = x.flip(0)
        images.append(x.permute(1, 2, 0).numpy())
    shown = value_range(images[0])
    return [torch.from_numpy(to_picture(image, shown)) for image in images]


def feature_colours(*maps: Tensor) -> list[Tensor]:
    """Features as colours, along the first three principal axes of the first map, which are used for every map.

    Args:
        maps: (1, C, H, W).

    Returns:
        For each map a tensor (H, W, 3) with values from 0 to 1.
    """
    tokens_NC = maps[0][0].flatten(1).T.double()
    mean_C = tokens_NC.mean(0)
    axes_CK = torch.linalg.svd(tokens_NC - mean_C, full_matrices=False).Vh[:3].T
    planes = [((x[0].flatten(1).T.double() - mean_C) @ axes_CK) for x in maps]
    low, high = (torch.quantile(planes[0], q, dim=0) for q in (0.01, 0.99))
    colours = [((plane - low) / (high - low).clamp(min=1e-12)).clamp(0, 1) for plane in planes]
    missing = 3 - axes_CK.shape[1]
    return [nn.functional.pad(c, (0, missing)).unflatten(0, maps[0].shape[2:]) for c in colours]
