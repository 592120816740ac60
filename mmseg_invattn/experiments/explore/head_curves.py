"""Heads of quadratic encodings over training: how many resemble the tap of a convolution, and how widely they look.

The data are the files of ``AttentionCentreHook``, one for each run. Weights are those of a query in the middle of a map
so large that its border has no effect.

Shape suffixes: T moments of the training, G heads; the last 2 is (row, column).
"""

from pathlib import Path

import matplotlib
import numpy as np
import torch
from torch import Tensor

from ...layers.convolution.encoding import QuadraticEncoding
from ...layers.convolution.statistics import HeadStatistics, head_statistics
from ...ops.attention import pixel_grid
from ...visualization.figures import new_figure, save_figure
from .relative_attention_pictures import read_centres

NEAR = 0.5  # a head with more than this share of its weight on one offset counts as the tap of a convolution


def gaussian_statistics(centre_G2: Tensor, precision_G22: Tensor) -> HeadStatistics:
    """Statistics of heads with the weights ``softmax(-1/2 (d - centre)^T precision (d - centre))`` over the offsets d.

    Args:
        centre_G2: in pixels.
        precision_G22: inverse covariances, in 1 / pixel^2.
    """
    reach = QuadraticEncoding.reach
    offset_M2 = pixel_grid((2 * reach + 1,) * 2, centre_G2) - reach
    from_centre_GM2 = offset_M2 - centre_G2[:, None]
    logits_GM = -torch.einsum('gmk,gkl,gml->gm', from_centre_GM2, precision_G22, from_centre_GM2) / 2
    return head_statistics(logits_GM.softmax(-1)[None, :, None], torch.zeros_like(centre_G2[:1]), offset_M2)


def head_curve(path: Path) -> dict:
    """The statistics of the heads over one run.

    Returns:
        ``iterations`` (T), and in ``layers`` for each layer the number of ``heads`` and, at every moment, how many are
        ``near`` the tap of a convolution, their median ``spread`` and the median ``distance`` of their centres, in
        pixels of the feature map.

    Raises:
        FileNotFoundError, ValueError: see :func:`.read_centres`.
    """
    iterations, centres, precisions = read_centres(path)
    layers = {}
    for name, centre_TG2 in centres.items():
        curve = dict(heads=centre_TG2.shape[1], near=[], spread=[], distance=[])
        for centre_G2, precision_G22 in zip(centre_TG2, precisions[name], strict=True):
            found = gaussian_statistics(torch.from_numpy(centre_G2), torch.from_numpy(precision_G22))
            curve['near'].append(int((found.tap_weight > NEAR).sum()))
            curve['spread'].append(round(float(found.spread.median()), 4))
            curve['distance'].append(round(float(found.centre.norm(dim=1).median()), 4))
        layers[name.removesuffix('.mixing.encoding')] = curve
    return dict(iterations=iterations, layers=layers)


def draw_curves(curves: list[dict], target: Path) -> None:
    """Draw the share of heads near one offset, and the median spread, over the iterations. Each layer has a colour,
    each run a thin line, and the mean of the runs a thick one.

    Args:
        curves: results of :func:`head_curve` for runs with the same layers.
        target: path of the PNG.
    """
    figure = new_figure(9, 3.4)
    share_axis, spread_axis = figure.subplots(1, 2)
    names = list(curves[0]['layers'])
    colours = matplotlib.colormaps['viridis'](np.linspace(0, 0.85, len(names)))
    common = sorted(set.intersection(*(set(curve['iterations']) for curve in curves)))
    for name, colour, number in zip(names, colours, range(1, len(names) + 1), strict=True):
        for axis, key in ((share_axis, 'near'), (spread_axis, 'spread')):
            lines = []
            for curve in curves:
                layer, iterations = curve['layers'][name], curve['iterations']
                values = np.array(layer[key]) / (layer['heads'] if key == 'near' else 1)
                axis.plot(iterations, values, color=colour, linewidth=0.6, alpha=0.6)
                lines.append(values[np.isin(iterations, common)])
            axis.plot(common, np.mean(lines, 0), color=colour, linewidth=2, label=f'layer {number}')
    share_axis.set_ylabel(f'share of heads above {NEAR} on one offset', fontsize=9)
    share_axis.set_ylim(-0.02, 1.02)
    spread_axis.set_ylabel('median spread, pixels of the feature map', fontsize=9)
    spread_axis.set_ylim(0, 1.08 * spread_axis.get_ylim()[1])
    for axis in (share_axis, spread_axis):
        axis.set_xlabel('iteration')
        axis.grid(color='0.9')
    figure.legend(*share_axis.get_legend_handles_labels(), loc='outside right center', fontsize=8)
    if len(curves) > 1:
        figure.suptitle('thin: each run; thick: mean of the runs', fontsize=9)
    save_figure(figure, target)
