"""Print a config with all that it inherits, and --cfg-options applied.

python tools/analysis/print_config.py CONFIG [--out FILE] [--cfg-options KEY=VALUE ...]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import add_config_arguments, add_overwrite_argument, check_suffix, read_config, refuse_existing

SUFFIXES = ('.py', '.json', '.yaml', '.yml')


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_arguments(parser)
    parser.add_argument('--out', type=Path, metavar='FILE', help=f'also write it here ({", ".join(SUFFIXES)})')
    add_overwrite_argument(parser)
    args = parser.parse_args(arguments)
    check_suffix(parser, args.out, SUFFIXES, 'a config')
    return args


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)
    cfg = read_config(args)
    if args.out:
        refuse_existing([args.out], args.overwrite)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        cfg.dump(args.out)
    print(cfg.pretty_text)
