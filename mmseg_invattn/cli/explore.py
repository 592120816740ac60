"""Write a page that shows where every head of every attention block looks in an image.

If the folder of the checkpoint has a file of AttentionCentreHook, the page also shows the attention centres over
training.
"""

from __future__ import annotations

import argparse
from io import BytesIO
from pathlib import Path

from .arguments import add_loading_arguments, add_model_arguments, load_model
from .output import add_output_arguments, refuse_existing
from .parser import CommandParser


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser(__doc__, 'CONFIG CHECKPOINT street.png --out page.html', 'CHECKPOINT street.png')
    add_model_arguments(parser, alone=True)
    parser.add_argument('image', metavar='IMAGE', help='image file')
    add_output_arguments(parser, 'page to write', 'attention.html')
    add_loading_arguments(parser)
    return parser.parse_args(arguments)


def _centres(source: Path) -> bytes | None:
    """PNG of the centres that a run with quadratic encodings has written next to its checkpoints."""
    from ..experiments.explore.relative_attention_pictures import draw_centres

    if not source.is_file():
        return None
    png = BytesIO()
    draw_centres(source, png)
    return png.getvalue()


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)

    from ..engine.atomic_backend import AtomicLocalBackend
    from ..engine.finite_outputs import outputs_of
    from ..engine.hooks.attention_centre_hook import FILE
    from ..engine.windows import windows_note
    from ..experiments.explore.attention_adapters import attention_views
    from ..experiments.explore.page import channel_notes, make_page
    from ..visualization.model_input import read_image

    refuse_existing([args.out], args.overwrite)
    model = load_model(args)
    picture, image = read_image(model, args.image)
    with outputs_of(args.image):
        views = attention_views(model, lambda: model(image, mode='tensor'))
    checkpoint = '/'.join(Path(args.checkpoint).parts[-2:])  # its folder tells which run it is from
    config = f'config {Path(args.config).name} · ' if args.config else ''
    title = f'Image {Path(args.image).name} · {config}checkpoint {checkpoint}'
    note = windows_note(model, image)
    if note:
        title += f'. {note}'
    page = make_page(picture, views, title, channel_notes(model), centres=_centres(Path(args.checkpoint).parent / FILE))
    AtomicLocalBackend().put_text(page, args.out)
    blocks = ', '.join(f'{name} ({view.heads})' for name, view in views)
    print(f'{args.out}: {args.out.stat().st_size / 1e6:.2f} MB; blocks (heads): {blocks}')
    if note:
        print(note)
