"""Print a config with all that it inherits, and --cfg-options applied; or copy one to be edited."""

from __future__ import annotations

import argparse
import ast
from pathlib import Path

from ..paths import find_config
from .arguments import add_config_arguments, read_config
from .output import add_output_arguments, refuse_existing
from .parser import CommandParser

SUFFIXES = ('.py', '.json', '.yaml', '.yml')


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser(
        __doc__, 'CONFIG --out whole.py', 'CONFIG --cfg-options train_cfg.max_iters=100', 'CONFIG --copy my_data.py'
    )
    add_config_arguments(parser)
    add_output_arguments(parser, f'also write it here ({", ".join(SUFFIXES)}); default: nowhere')
    parser.add_argument(
        '--copy',
        type=Path,
        metavar='FILE',
        help='copy the file as it is written, to be edited; the configs that it builds on are then named by full '
        'paths; default: no copy',
    )
    args = parser.parse_args(arguments)
    parser.check_suffix(args.out, SUFFIXES, 'a config')
    if args.copy and args.copy.suffix != '.py':
        parser.error(f'--copy {args.copy}: a config that is written in Python ends in .py')
    if args.copy and (args.out or args.cfg_options):
        parser.error('--copy copies the file as it is: leave out --out and --cfg-options')
    return args


def moved(config: Path) -> str:
    """The text of a config for another folder: what ``_base_`` names is named by full paths."""
    text = config.read_text(encoding='utf-8')
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == '_base_':
            bases = ast.literal_eval(node.value)
            bases = [bases] if isinstance(bases, str) else bases
            lines = [f'    {str((config.parent / base).resolve())!r},' for base in bases]
            text = text.replace(ast.get_source_segment(text, node), '\n'.join(['_base_ = [', *lines, ']']), 1)
    return text


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)

    from ..engine.atomic_backend import AtomicLocalBackend, whole_file

    if args.copy:
        source = find_config(args.config)
        refuse_existing([args.copy], args.overwrite, 'another --copy')
        AtomicLocalBackend().put_text(moved(source), args.copy)
        print(f'{args.copy}: a copy of {source}')
        return
    if args.out:
        refuse_existing([args.out], args.overwrite)
    cfg = read_config(args)
    if args.out:
        with whole_file(args.out) as partial:
            cfg.dump(partial)
    print(cfg.pretty_text)
