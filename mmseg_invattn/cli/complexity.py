"""Count parameters and FLOPs of a model, the cost of its inverses, and the memory of a training step.

FLOPs are those of matrix products, convolutions and attention; a multiply-add counts as two. The forward pass ends with
the logits. The inverse is run for the features of a random image, and all its iterations are counted. Their number
depends on the weights, so give a checkpoint. The memory is that of all tensors in a step with the batch size of the
config; if a part of the model can recover its activations instead of storing them, both are shown. It is counted from
shapes, so that it needs neither the memory nor the time of the step.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .arguments import add_config_arguments, add_loading_arguments, add_shape_argument, load_model, read_config
from .output import add_output_arguments, refuse_existing
from .parser import CommandParser

if TYPE_CHECKING:
    from mmengine.config import Config
    from prettytable import PrettyTable
    from torch import Tensor, nn

    from ..evaluation.complexity import InverseCost
    from ..evaluation.largest_image import LargestImage
    from ..evaluation.training_memory import TrainingMemory


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser(__doc__, 'CONFIG', 'CONFIG CHECKPOINT --shape 512 1024')
    add_config_arguments(parser)
    parser.add_argument(
        'checkpoint', nargs='?', metavar='CHECKPOINT', help='checkpoint file; default: the initial weights'
    )
    add_shape_argument(parser, 'image size in pixels; default: that of the training crops')
    parser.add_argument('--tol', type=float, default=1e-6, metavar='TOL', help='relative tolerance of the inverse')
    parser.add_argument(
        '--fits',
        nargs='+',
        type=float,
        metavar='GIB',
        help='memories in GiB: also show the largest image of the same shape with which training fits into each; '
        'default: none',
    )
    add_output_arguments(parser, 'JSON file for the costs of the inverses and the memory in bytes; default: none')
    add_loading_arguments(parser)
    return parser.parse_args(arguments)


def shown(flops: int) -> str:
    """FLOPs in a readable unit."""
    for unit, size in (('T', 1e12), ('G', 1e9), ('M', 1e6)):
        if flops >= size:
            return f'{flops / size:.4g} {unit}'
    return f'{flops / 1e3:.4g} k'


def built(args: argparse.Namespace, cfg: Config) -> tuple[nn.Module, Tensor]:
    """The model in evaluation mode, with its weights, and an image for it."""
    import torch
    from mmengine.registry import init_default_scope
    from mmseg.models.segmentors import BaseSegmentor
    from mmseg.registry import MODELS

    from ..datasets.image_size import image_size
    from ..engine.config_checks import check_config, explained
    from ..engine.config_checks.model import image_channels
    from ..engine.inference import random_image
    from ..engine.launch import check_checkpoint_file
    from ..engine.matching import load_file

    init_default_scope(cfg.get('default_scope', 'mmseg'))
    check_config(dict(model=cfg.get('model')))
    kind = MODELS.get(cfg.model.type) if isinstance(cfg.model.type, str) else cfg.model.type
    if issubclass(kind, BaseSegmentor):
        model = load_model(args)
        return model, random_image(model, args.shape)
    if args.checkpoint is not None:
        check_checkpoint_file(args.checkpoint)
    with explained(cfg):
        model = MODELS.build(cfg.model)
    if args.checkpoint is not None:
        load_file(model, args.checkpoint, args.trust_checkpoint)
    device = args.device or ('cuda:0' if torch.cuda.is_available() else 'cpu')
    pixels = torch.rand(1, image_channels(model), *(args.shape or image_size(cfg))) - 0.5
    return model.to(device).eval(), pixels.to(device)


def parts_table(model: nn.Module, image: Tensor) -> PrettyTable:
    """Parameters and FLOPs of the whole model and of its parts."""
    from mmseg.models.segmentors import BaseSegmentor
    from prettytable import PrettyTable

    from ..evaluation.complexity import count_flops, count_parameters
    from ..layers import constant_weights

    table = PrettyTable(['part', 'parameters', 'FLOPs'], align='r')
    table.align['part'] = 'l'
    with constant_weights(model):
        whole = count_flops(lambda: model(image, mode='tensor'))
        if isinstance(model, BaseSegmentor):
            features = count_flops(lambda: model.extract_feat(image))
            neck = count_parameters(model.neck) if model.with_neck else 0
            table.add_row(['backbone and neck', f'{count_parameters(model.backbone) + neck:,}', shown(features)])
            table.add_row(['decode head', f'{count_parameters(model.decode_head):,}', shown(whole - features)])
            if model.with_auxiliary_head:
                parameters = count_parameters(model.auxiliary_head)
                table.add_row(['auxiliary heads (training only)', f'{parameters:,}', '-'])
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


def fits_table(largest: Iterable[LargestImage]) -> PrettyTable:
    """The largest images that fit, with the memory there and at the next larger size."""
    from prettytable import PrettyTable

    table = PrettyTable(['activations', 'memory', 'largest image', 'training takes', 'next size', 'takes'], align='r')
    table.align['activations'] = 'l'
    for found in largest:
        fitting = ['none', '-'] if found.size is None else ['{}x{}'.format(*found.size), mebibytes(found.total)]
        beyond = '{}x{}'.format(*found.beyond), mebibytes(found.total_beyond)
        table.add_row([found.activations, f'{found.budget / 2**30:g} GiB', *fitting, *beyond])
    return table


def mebibytes(size: int) -> str:
    return f'{size / 2**20:,.1f} MiB'


def memory_report(memory: TrainingMemory) -> str:
    """The memory of a training step, with activations stored and recovered."""
    from prettytable import PrettyTable

    from ..evaluation.training_memory import memory_free_types

    table = PrettyTable(
        ['activations', 'backbone', 'kept for the backward pass', 'peak of both passes', 'training in all'], align='r'
    )
    table.align['activations'] = 'l'
    failed = []
    for name, step in memory.steps.items():
        if isinstance(step, str):
            failed.append(f'{name}: not counted, because the step fails: {step}')
            continue
        label = f'{name} (as in the config)' if name == memory.configured and len(memory.steps) > 1 else name
        table.add_row([label, *map(mebibytes, (step.part, step.kept, step.peak, memory.total(step)))])
    batch, _, height, width = memory.shape
    optimizer = f', {memory.optimizer_type} {mebibytes(memory.optimizer)}' if memory.optimizer is not None else ''
    lines = [
        f'training step, batch of {batch}, {height}x{width}: parameters and buffers '
        f'{mebibytes(memory.parameters)}{optimizer}'
    ]
    lines += [str(table)] if table.rows else []
    lines += failed
    if len(memory.steps) == 1:
        lines.append(f'no part of this model takes memory_free; those that do: {", ".join(memory_free_types())}')
    return '\n'.join(lines)


def numbers(model: nn.Module, image: Tensor, costs: list[InverseCost], memory: TrainingMemory) -> dict:
    """All that is printed but FLOPs of the parts; memory in bytes."""
    from ..evaluation.complexity import count_parameters

    inverses = [dataclasses.asdict(cost) for cost in costs]
    for inverse in inverses:
        inverse['error_bound'] = inverse['error_bound'] if math.isfinite(inverse['error_bound']) else None
    steps = {
        name: dict(error=step) if isinstance(step, str) else step._asdict() | dict(total=memory.total(step))
        for name, step in memory.steps.items()
    }
    training = dataclasses.asdict(memory) | dict(steps=steps)
    return dict(image=list(image.shape[2:]), parameters=count_parameters(model), inverses=inverses, training=training)


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)

    import torch

    from ..engine.atomic_backend import AtomicLocalBackend
    from ..evaluation.complexity import inverse_costs
    from ..evaluation.largest_image import largest_images
    from ..evaluation.training_memory import training_memory

    if args.fits and min(args.fits) <= 0:
        raise ValueError(f'--fits {min(args.fits):g} must be above 0: it is a memory in GiB')
    if args.out is not None:
        refuse_existing([args.out], args.overwrite)
    cfg = read_config(args)
    with torch.no_grad():
        model, image = built(args, cfg)
        print(f'image {image.shape[2]}x{image.shape[3]}\n{parts_table(model, image)}')
        costs = inverse_costs(model, image, args.tol)
    print(inverse_table(costs) if costs else 'no part of this model has an inverse')
    memory = training_memory(cfg, args.shape)
    print(memory_report(memory))
    largest = []
    if args.fits:
        largest = list(largest_images(cfg, [int(gib * 2**30) for gib in args.fits], memory.shape[2:]))
        print(f'batch of {memory.shape[0]}\n{fits_table(largest)}')
    if args.out is not None:
        found = numbers(model, image, costs, memory) | dict(fits=[each._asdict() for each in largest])
        AtomicLocalBackend().put_text(json.dumps(found, indent=2) + '\n', args.out)
