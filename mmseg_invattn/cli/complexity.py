"""Count parameters and FLOPs of a model, and the cost of inverting its attention or its backbone.

FLOPs are those of matrix products, convolutions and attention; a multiply-add counts as two. The forward pass ends with
the logits. The inverse is run for the features of a random image, and all its iterations are counted. Their number
depends on the weights, so give a checkpoint.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .arguments import add_config_arguments, add_loading_arguments, add_shape_argument, load_model
from .parser import CommandParser

if TYPE_CHECKING:
    from prettytable import PrettyTable
    from torch import Tensor, nn

    from ..evaluation.complexity import InverseCost


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser(__doc__, 'CONFIG', 'CONFIG CHECKPOINT --shape 512 1024')
    add_config_arguments(parser)
    parser.add_argument(
        'checkpoint', nargs='?', metavar='CHECKPOINT', help='checkpoint file; default: the initial weights'
    )
    add_shape_argument(parser, 'image size in pixels; default: that of the training crops')
    parser.add_argument('--tol', type=float, default=1e-6, metavar='TOL', help='relative tolerance of the inverse')
    add_loading_arguments(parser)
    return parser.parse_args(arguments)


def shown(flops: int) -> str:
    """FLOPs in a readable unit."""
    for unit, size in (('T', 1e12), ('G', 1e9), ('M', 1e6)):
        if flops >= size:
            return f'{flops / size:.4g} {unit}'
    return f'{flops / 1e3:.4g} k'


def parts_table(model: nn.Module, image: Tensor) -> PrettyTable:
    """Parameters and FLOPs of the whole model and of its parts."""
    from prettytable import PrettyTable

    from ..evaluation.complexity import count_flops, count_parameters
    from ..layers import constant_weights

    table = PrettyTable(['part', 'parameters', 'FLOPs'], align='r')
    table.align['part'] = 'l'
    with constant_weights(model):
        features = count_flops(lambda: model.extract_feat(image))
        whole = count_flops(lambda: model(image, mode='tensor'))
    neck = count_parameters(model.neck) if model.with_neck else 0
    table.add_row(['backbone and neck', f'{count_parameters(model.backbone) + neck:,}', shown(features)])
    table.add_row(['decode head', f'{count_parameters(model.decode_head):,}', shown(whole - features)])
    if model.with_auxiliary_head:
        table.add_row(['auxiliary heads (training only)', f'{count_parameters(model.auxiliary_head):,}', '-'])
    table.add_row(['whole model', f'{count_parameters(model):,}', shown(whole)])
    return table


def inverse_table(costs: list[InverseCost]) -> PrettyTable:
    """The cost of inverting each part."""
    from prettytable import PrettyTable

    table = PrettyTable(
        [
            'invertible part',
            'input',
            'forward',
            'inverse',
            'inverse / forward',
            'evaluations',
            'error bound',
            'converged',
        ],
        align='r',
    )
    table.align['invertible part'] = 'l'
    for cost in costs:
        table.add_row(
            [
                cost.name,
                'x'.join(map(str, cost.shape)),
                shown(cost.forward),
                shown(cost.inverse),
                f'{cost.inverse / max(cost.forward, 1):.2f}',
                cost.iterations,
                f'{cost.error_bound:.1e}',
                'yes' if cost.converged else 'NO',
            ]
        )
    return table


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)

    import torch

    from ..engine.inference import random_image
    from ..evaluation.complexity import inverse_costs

    with torch.no_grad():
        model = load_model(args)
        image = random_image(model, args.shape)
        print(f'image {image.shape[2]}x{image.shape[3]}\n{parts_table(model, image)}')
        costs = inverse_costs(model, image, args.tol)
    print(inverse_table(costs) if costs else 'no part of this model has an inverse')
