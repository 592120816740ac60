"""What the inverses of a model recover from an image: pictures, error maps, bounds and the solver's curve.

python tools/invert.py CONFIG CHECKPOINT IMAGE --out DIR
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..engine.atomic_backend import AtomicLocalBackend
from ..engine.inference import init_model
from ..experiments.invert.figure import draw_inversion, summary
from ..experiments.invert.inversion import inversions
from ..layers import constant_weights
from ..models.invertible_parts import invertible_parts
from ..visualization.model_input import read_image
from .arguments import add_loading_arguments, add_model_arguments, add_overwrite_argument, refuse_existing


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Show what the inverses of a model recover from an image')
    add_model_arguments(parser)
    parser.add_argument('image', help='image file')
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('inverse'),
        metavar='DIR',
        help='folder for inverse.json and a picture for each inverse; default: %(default)s',
    )
    parser.add_argument(
        '--tol',
        type=float,
        default=1e-6,
        help='tolerance of the inverse, relative to the largest token; default: %(default)s',
    )
    parser.add_argument('--max-iter', type=int, default=100, help='most evaluations of a branch; default: %(default)s')
    add_loading_arguments(parser)
    add_overwrite_argument(parser)
    args = parser.parse_args(arguments)
    if args.max_iter < 1:
        parser.error(f'--max-iter is {args.max_iter}, but an inverse takes at least 1 evaluation')
    if not 0 < args.tol < 1:
        parser.error(f'--tol is {args.tol}, but a relative error lies between 0 and 1')
    return args


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)
    report = args.out / 'inverse.json'
    refuse_existing([report], args.overwrite)
    model = init_model(args.config, args.checkpoint, args.device, args.trust_checkpoint)
    pictures = {name: args.out / f'{name}.png' for name, _ in invertible_parts(model)}
    refuse_existing(pictures.values(), args.overwrite)
    with constant_weights(model):
        results = inversions(model, read_image(model, args.image)[1], args.tol, args.max_iter)
    args.out.mkdir(parents=True, exist_ok=True)
    for result in results:
        draw_inversion(result, model, pictures[result.name])
        print(f'{summary(result)}\n{pictures[result.name]}')
    numbers = dict(
        config=args.config,
        checkpoint=args.checkpoint,
        image=args.image,
        tol=args.tol,
        max_iter=args.max_iter,
        inverses=[result.numbers() for result in results],
    )
    AtomicLocalBackend().put_text(json.dumps(numbers, indent=2) + '\n', report)
    return 0 if all(result.converged for result in results) else 1
