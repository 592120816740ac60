"""The command ``mmseg-invattn SUBCOMMAND``, and how it reports errors.

An error of the user (a wrong path, a misspelt argument, a damaged file) gives one paragraph and exit status 2;
``--debug`` shows where in the code it occurred. Other errors keep their traceback.
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
    'predict': 'draw the predicted classes over images, folders or a video',
    'invert': 'show what the inverses of a model recover from an image',
    'explore': 'write a page that shows which pixels get attention',
    'compare': 'train configs, evaluate them and write one report',
    'check-dataset': 'find faults in a data set before training',
    'reconstruct': 'train one attention block and test whether its inverse recovers images',
    'sample': 'draw samples from a flow',
    'interpolate': 'interpolate between images in the latent space of a flow',
    'export': 'write the forward pass as ONNX or torch.export',
    'complexity': 'count parameters, FLOPs, also of the inverses, and memory in training',
    'benchmark': 'measure speed and memory in comparison with other implementations',
    'browse': 'write samples as the model gets them in training',
    'print-config': 'print a config with everything that it inherits',
    'publish': 'write a checkpoint with only the weights, for others to load',
    'convert': 'prepare a data set: camvid, context-shapes',
    'analyze': 'tables and pictures of runs and models: logs, confusion-matrix, ...',
    'demo': 'train, evaluate, invert and show three small models',
    'doctor': 'list what is installed and what is wrong with it',
}
# subcommands that have subcommands
GROUPS = {
    'convert': {'camvid': 'check and convert CamVid', 'context-shapes': 'make the data of the demo'},
    'analyze': {
        'accuracy-table': 'a table of several classification runs',
        'attention-vs-conv': 'how close the heads of an attention network are to convolutions',
        'confusion-matrix': 'which classes a model confuses',
        'flow-curves': 'bits per dimension of several flows during training',
        'flow-memory': 'memory that training a flow needs',
        'inversion-grid': 'invert blocks over a grid of settings and count the failures',
        'learning': 'how many iterations each form and mode needs to learn the demo',
        'logs': 'learning curves of several runs, and their last and best values',
        'plot-gain': 'the certified gain of a branch against its sharpness',
    },
}
COMMANDS = [f'{name} {part}'.strip() for name in SUBCOMMANDS for part in GROUPS.get(name, [''])]


def main(arguments: list[str] | None = None, program: str = 'mmseg-invattn') -> int:
    """Runs a subcommand and returns its exit status.

    Args:
        arguments: arguments of the command line; None means those of the process.
        program: name of the command in help and messages.
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
    """The usage, with the list of subcommands."""
    width = max(map(len, there))
    return '\n'.join(
        [
            f'usage: {program} SUBCOMMAND ...',
            '',
            'subcommands:',
            *(f'  {name:{width}}  {what}' for name, what in there.items()),
            '',
            f'{program} SUBCOMMAND --help shows its arguments.',
        ]
    )


def run(name: str, arguments: list[str] | None = None, program: str | None = None) -> int:
    """Runs the subcommand of the given name.

    Args:
        name: one of ``COMMANDS``.
        arguments: arguments of the command line; None means those of the process.
        program: name of the program in help and messages; None means the script that Python runs.

    Returns:
        The exit status: 2 for an error of the user, 130 after Ctrl-C, 143 after SIGTERM.
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
            print(
                f'{program}: another process of this run has failed and printed the reason', file=sys.stderr, flush=True
            )
            return 1
        _tell_launcher(said if mistake else f'{type(error).__name__}: {error}')
        if not mistake or '--debug' in arguments:
            raise
        print(f'{said} (--debug shows where in the code this occurred)', file=sys.stderr, flush=True)
        return 2


def _tell_launcher(said: str) -> None:
    """Passes the cause to torch's launcher, which shows the cause of the process that failed first."""
    if 'TORCHELASTIC_ERROR_FILE' in os.environ:
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        get_error_handler().record_exception(RuntimeError(said))
