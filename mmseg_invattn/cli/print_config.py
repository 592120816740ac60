"""Print a config with everything that it inherits, after applying --cfg-options; or copy a config to edit it."""

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
    add_output_arguments(parser, f'file to write as well ({", ".join(SUFFIXES)}); default: none')
    parser.add_argument(
        '--copy',
        type=Path,
        metavar='FILE',
        help='copy the config file to FILE, to edit it; in the copy, _base_ names the inherited configs by full '
        'paths; default: no copy',
    )
    args = parser.parse_args(arguments)
    parser.check_suffix(args.out, SUFFIXES, 'a config')
    if args.copy and args.copy.suffix != '.py':
        parser.error(f'--copy {args.copy}: the name of a config in Python must end in .py')
    if args.copy and (args.out or args.cfg_options):
        parser.error('--copy copies the file without changes: leave out --out and --cfg-options')
    return args


def moved(config: Path) -> str:
    """The text of a config for use in another folder, with full paths in ``_base_``."""
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
