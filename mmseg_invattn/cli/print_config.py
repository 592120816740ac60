"""Print a config with all that it inherits, and --cfg-options applied."""

from __future__ import annotations

import argparse

from .arguments import add_config_arguments, read_config
from .output import add_output_arguments, refuse_existing
from .parser import CommandParser

SUFFIXES = ('.py', '.json', '.yaml', '.yml')


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser(__doc__, 'CONFIG --out whole.py', 'CONFIG --cfg-options train_cfg.max_iters=100')
    add_config_arguments(parser)
    add_output_arguments(parser, f'also write it here ({", ".join(SUFFIXES)}); default: nowhere')
    args = parser.parse_args(arguments)
    parser.check_suffix(args.out, SUFFIXES, 'a config')
    return args


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)
    if args.out:
        refuse_existing([args.out], args.overwrite)
    cfg = read_config(args)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        cfg.dump(args.out)
    print(cfg.pretty_text)
