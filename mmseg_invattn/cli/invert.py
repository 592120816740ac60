"""Show what the inverses of a model recover from an image: pictures, error maps, bounds and the solver's progress."""

from __future__ import annotations

import argparse
import json

from .arguments import add_loading_arguments, add_model_arguments, load_model
from .output import add_output_arguments, refuse_existing
from .parser import CommandParser


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser(__doc__, 'CONFIG CHECKPOINT street.png --out inverse', 'CHECKPOINT street.png')
    add_model_arguments(parser, alone=True)
    parser.add_argument('image', metavar='IMAGE', help='image file')
    add_output_arguments(parser, 'folder for inverse.json and a picture of each inverse', 'inverse', folder=True)
    parser.add_argument(
        '--tol', type=float, default=1e-6, metavar='TOL', help='tolerance of the inverse, relative to the largest token'
    )
    parser.add_argument(
        '--max-iter', type=int, default=100, metavar='N', help='largest number of evaluations of a branch'
    )
    add_loading_arguments(parser)
    args = parser.parse_args(arguments)
    if args.max_iter < 1:
        parser.error(f'--max-iter is {args.max_iter}, but an inverse needs at least 1 evaluation')
    if not 0 < args.tol < 1:
        parser.error(f'--tol is {args.tol}, but a relative error must lie between 0 and 1')
    return args


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)

    from ..engine.atomic_backend import AtomicLocalBackend
    from ..engine.finite_outputs import outputs_of
    from ..engine.windows import windows_note
    from ..experiments.invert.figure import draw_inversion, summary
    from ..experiments.invert.inversion import inversions
    from ..layers import constant_weights
    from ..models.invertible_parts import invertible_parts
    from ..visualization.model_input import read_image

    report = args.out / 'inverse.json'
    refuse_existing([report], args.overwrite)
    model = load_model(args)
    pictures = {name: args.out / f'{name}.png' for name, _ in invertible_parts(model)}
    refuse_existing(pictures.values(), args.overwrite)
    with constant_weights(model), outputs_of(args.image):
        image = read_image(model, args.image)[1]
        results = inversions(model, image, args.tol, args.max_iter)
    note = windows_note(model, image)
    args.out.mkdir(parents=True, exist_ok=True)
    for result in results:
        draw_inversion(result, model, pictures[result.name], note)
        print(f'{summary(result)}\n{pictures[result.name]}')
    numbers = dict(
        config=args.config,
        checkpoint=args.checkpoint,
        image=args.image,
        tol=args.tol,
        max_iter=args.max_iter,
        windows=note,
        inverses=[result.numbers() for result in results],
    )
    AtomicLocalBackend().put_text(json.dumps(numbers, indent=2) + '\n', report)
    if note:
        print(note)
    return 0 if all(result.converged for result in results) else 1
