"""The command in this process: its parsers, and a line of arguments for every subcommand."""

from __future__ import annotations

import itertools
import os
from importlib import import_module
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import torch
from helpers.runtime_case import configs_laid_out_quickly
from helpers.tool_case import write_tool_case

from mmseg_invattn.cli.main import main
from mmseg_invattn.cli.parser import CommandParser

RUNS = itertools.count()
CFG_OPTIONS = '--cfg-options'


class _CaughtError(Exception):
    """Leaves the subcommand where its parser is complete."""


def parser_of(command: str) -> CommandParser:
    """The parser of ``mmseg-invattn COMMAND``, before it reads any argument."""
    caught = []

    def catch(self: CommandParser, *args: object) -> None:
        caught.append(self)
        raise _CaughtError

    module = import_module(f'mmseg_invattn.cli.{command.replace(" ", ".").replace("-", "_")}')
    with mock.patch('sys.argv', [f'mmseg-invattn {command}']), mock.patch.object(CommandParser, 'parse_args', catch):
        try:
            module.main([])
        except _CaughtError:
            pass
    (parser,) = caught
    return parser


def run_command(command: str, *arguments: object, options: tuple[str, ...] = ()) -> int:
    """The exit status of ``mmseg-invattn COMMAND ARGUMENTS``, in this process with one thread.

    Args:
        command: name of the subcommand.
        arguments: its arguments.
        options: ``--cfg-options``; for what trains or tests give at least an empty string, which adds names of the
            run, since MMEngine shares the message hub of runs that start within the same second.
    """
    line = [*command.split(), *map(str, arguments)]
    if options:
        run = f'command{next(RUNS)}'
        line += [CFG_OPTIONS, f'experiment_name={run}', f'visualizer.name={run}', *filter(None, options)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with mock.patch('sys.argv', ['mmseg-invattn']), mock.patch.dict(os.environ), configs_laid_out_quickly():
            return main(line)
    finally:
        torch.set_num_threads(threads)


def write_command_case(folder: Path) -> dict[str, str]:
    """Files for every subcommand: a config and weights for it, an image, and the log of a run."""
    config, weights = write_tool_case(folder)
    cv2.imwrite(str(folder / 'image.png'), np.zeros((28, 28, 3), np.uint8))
    logs = folder / 'run' / 'vis_data' / 'scalars.json'
    logs.parent.mkdir(parents=True)
    logs.write_text('{"loss": 1.0, "mIoU": 50.0, "time": 0.1, "step": 1}\n')
    return dict(config=config, weights=str(weights), image=str(folder / 'image.png'), run=str(folder / 'run'))


# subcommand -> its shortest line
LINES = {
    'train': '{config} --work-dir {out}',
    'test': '{config} {weights} --work-dir {out}/../work --out {out}',
    'predict': '{config} {weights} {image} --out {out}',
    'invert': '{config} {weights} {image} --out {out}',
    'explore': '{config} {weights} {image} --out {out}.html',
    'compare': '{config} --out {out}',
    'check-dataset': '{config}',
    'reconstruct': '{config} --out {out}',
    'sample': '{config} {weights} --out {out}',
    'interpolate': '{config} {weights} --out {out}',
    'export': '{config} {weights} --format torch_export --out {out}',
    'complexity': '{config} --out {out}',
    'benchmark': '--what models --quick --configs {config} --out {out}',
    'browse': '{config} --num 1 --out {out}',
    'print-config': '{config} --out {out}.py',
    'publish': '{weights} --out {out}',
    'convert camvid': '{run} --out {out}',
    'convert context-shapes': '--num-train 1 --num-val 1 --out {out}',
    'analyze accuracy-table': '{run}',
    'analyze attention-vs-conv': '{weights} --config {config} --out {out}',
    'analyze confusion-matrix': '{config} {weights} --out {out}',
    'analyze flow-curves': '{run} --out {out}',
    'analyze flow-memory': '{config}',
    'analyze inversion-grid': '',
    'analyze learning': '--seeds 0 --curves {out}.json',
    'analyze logs': '{run} --out {out}.svg',
    'analyze plot-gain': '--out {out}',
    'demo': '--out {out}',
    'doctor': '',
}
