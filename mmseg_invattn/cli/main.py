"""The command ``mmseg-invattn SUBCOMMAND``, and how a mistake of its user ends.

A wrong path, a misspelt argument or a damaged file is one paragraph and exit status 2; ``--debug`` shows where it came
up. What nobody expected keeps its traceback.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping
from importlib import import_module

from .errors import explanation, is_mistake, lost_peer
from .interruption import report, terminable

SUBCOMMANDS = {
    'train': 'train a model from a config',
    'test': 'evaluate a checkpoint',
    'predict': 'paint what a model sees over images, folders or a video',
    'invert': 'show what the inverses of a model recover from an image',
    'explore': 'write a page that shows where attention looks',
    'compare': 'train configs, evaluate them and write one report',
    'check-dataset': 'look for faults in a data set before training',
    'reconstruct': 'train one attention block and see whether images come back',
    'sample': 'draw samples of a flow',
    'interpolate': 'walk between images in the latents of a flow',
    'export': 'write the forward pass as ONNX or torch.export',
    'complexity': 'count parameters and FLOPs, of the inverses too',
    'benchmark': 'measure speed and memory against what people use',
    'browse': 'draw samples as training sees them',
    'print-config': 'print a config with all that it inherits',
    'publish': 'write plain weights for others to load',
    'convert': 'make a data set ready: camvid, context-shapes',
    'analyze': 'tables and pictures of runs and models: logs, confusion-matrix, ...',
    'demo': 'train, evaluate, invert and show three small models',
    'doctor': 'say what is installed and what is wrong with it',
}
# subcommands that have subcommands
GROUPS = {
    'convert': {'camvid': 'check and convert CamVid', 'context-shapes': 'make the data of the demo'},
    'analyze': {
        'accuracy-table': 'a table of several runs of classification',
        'attention-vs-conv': 'how near the heads of an attention network are to convolutions',
        'confusion-matrix': 'which classes a model takes for which',
        'flow-curves': 'bits per dimension of several flows over training',
        'flow-memory': 'memory that training a flow takes',
        'inversion-grid': 'invert blocks over a grid of settings and count the failures',
        'learning': 'after how many iterations each form and mode learns the demo',
        'logs': 'learning curves of several runs, and their last and best values',
        'plot-gain': 'the certified gain of a branch against its sharpness',
    },
}
COMMANDS = [f'{name} {part}'.strip() for name in SUBCOMMANDS for part in GROUPS.get(name, [''])]


def main(arguments: list[str] | None = None, program: str = 'mmseg-invattn') -> int:
    """Runs a subcommand; its exit status.

    Args:
        arguments: of the command line; None: those that the process was started with.
        program: the command's name, in help and messages.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ['--version']:
        from .. import __version__

        print(f'mmseg-invattn {__version__}')
        return 0
    group, there = '', SUBCOMMANDS
    while True:
        name, *arguments = arguments or ['--help']
        if name in ('-h', '--help'):
            print(usage(program, there))
            return 0
        if name not in there:
            near = difflib.get_close_matches(name, there, 1)
            guess = f', did you mean {near[0]!r}?' if near else ''
            print(f'{program}: there is no subcommand {name!r}{guess}\n\n{usage(program, there)}', file=sys.stderr)
            return 2
        program = f'{program} {name}'
        if group or name not in GROUPS:
            return run(f'{group} {name}'.strip(), arguments, program)
        group, there = name, GROUPS[name]


def usage(program: str, there: Mapping[str, str]) -> str:
    """What there is."""
    width = max(map(len, there))
    return '\n'.join(
        [
            f'usage: {program} SUBCOMMAND ...',
            '',
            'subcommands:',
            *(f'  {name:{width}}  {what}' for name, what in there.items()),
            '',
            f'{program} SUBCOMMAND --help tells its arguments.',
        ]
    )


def run(name: str, arguments: list[str] | None = None, program: str | None = None) -> int:
    """Runs the subcommand of that name.

    Args:
        name: one of ``COMMANDS``.
        arguments: of the command line; None: those that the process was started with.
        program: its name in help and messages; None: the script that Python was started with.

    Returns:
        The exit status: 2 where the user has made a mistake, 130 after Ctrl-C, 143 after SIGTERM.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    program = program or f'python {sys.argv[0]}'
    sys.argv = [program, *arguments]
    module = None
    try:
        with terminable():
            module = import_module(f'.{name.replace(" ", ".").replace("-", "_")}', __package__)
            return module.main() or 0
    except KeyboardInterrupt as stop:
        return report(stop, program, module)
    except Exception as error:
        mistake = is_mistake(error)
        said = f'{program}: {explanation(error)}'
        if lost_peer(error) and '--debug' not in arguments:
            print(f'{program}: another process of this run has ended, and has said why', file=sys.stderr, flush=True)
            return 1
        _tell_launcher(said if mistake else f'{type(error).__name__}: {error}')
        if not mistake or '--debug' in arguments:
            raise
        print(f'{said} (--debug shows where it came up)', file=sys.stderr, flush=True)
        return 2


def _tell_launcher(said: str) -> None:
    """Leave the cause to torch's launcher, which shows that of the process that failed first."""
    if 'TORCHELASTIC_ERROR_FILE' in os.environ:
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        get_error_handler().record_exception(RuntimeError(said))
