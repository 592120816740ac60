"""The command ``mmseg-invattn SUBCOMMAND``, and how a mistake of its user ends.

A wrong path, a misspelt argument or a damaged file is one paragraph and exit status 2; ``--debug`` shows where it came
up. What nobody expected keeps its traceback.
"""

from __future__ import annotations

import difflib
import errno
import sys
from importlib import import_module

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
    'convert-camvid': 'check and convert CamVid',
    'convert-context-shapes': 'make the data of the demo',
    'demo': 'train, evaluate, invert and show three small models',
    'doctor': 'say what is installed and what is wrong with it',
}
# Mistakes of a user: their messages name the value, the rule and a way out.
MISTAKES = (
    ValueError,
    TypeError,
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
    PermissionError,
    ImportError,
)
OTHERS = (errno.ENOSPC, errno.EDQUOT, errno.EADDRINUSE)  # of OSError
STACK = (
    'mmengine',
    'mmcv',
    'mmseg',
    'cv2',
    'PIL',
    'matplotlib',
    'jinja2',
    'tqdm',
    'prettytable',
    'scipy',
    'cityscapesscripts',
)


def main(arguments: list[str] | None = None) -> int:
    """Runs a subcommand; its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    name = arguments[0] if arguments else '--help'
    if name in ('-h', '--help'):
        print(usage())
        return 0
    if name == '--version':
        from .. import __version__

        print(f'mmseg-invattn {__version__}')
        return 0
    if name not in SUBCOMMANDS:
        near = difflib.get_close_matches(name, SUBCOMMANDS, 1)
        print(
            f'mmseg-invattn: there is no subcommand {name!r}'
            + (f', did you mean {near[0]!r}?' if near else '')
            + f'\n\n{usage()}',
            file=sys.stderr,
        )
        return 2
    return run(name, arguments[1:], f'mmseg-invattn {name}')


def usage() -> str:
    """What there is."""
    width = max(map(len, SUBCOMMANDS))
    lines = [f'  {name:{width}}  {what}' for name, what in SUBCOMMANDS.items()]
    return '\n'.join(
        [
            'usage: mmseg-invattn SUBCOMMAND ...',
            '',
            'subcommands:',
            *lines,
            '',
            'mmseg-invattn SUBCOMMAND --help tells its arguments. Every subcommand takes --debug, which '
            'shows where an error',
            'came up.',
        ]
    )


def run(name: str, arguments: list[str] | None = None, program: str | None = None) -> int:
    """Runs the subcommand of that name.

    Args:
        arguments: of the command line; None: those that the process was started with.
        program: its name in the help; that of the script where None.

    Returns:
        The exit status: 2 where the user has made a mistake, 130 after Ctrl-C.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = '--debug' in arguments
    program = program or sys.argv[0]
    sys.argv = [program, *(argument for argument in arguments if argument != '--debug')]
    try:
        return import_module(f'.{name.replace("-", "_")}', __package__).main() or 0
    except KeyboardInterrupt:
        print(
            f'\n{program}: interrupted.'
            + (' The same command with --resume goes on from the last checkpoint.' if name == 'train' else ''),
            file=sys.stderr,
        )
        return 130
    except Exception as error:
        if debug or not _is_mistake(error):
            raise
        print(f'{program}: {explanation(error)}', file=sys.stderr)
        return 2


def _is_mistake(error: Exception) -> bool:
    if isinstance(error, ModuleNotFoundError):
        return error.name in STACK
    if isinstance(error, KeyError):  # a type that no registry knows, misspelt or not imported
        return 'registry' in str(error)
    return isinstance(error, MISTAKES) or isinstance(error, OSError) and error.errno in OTHERS


def explanation(error: Exception) -> str:
    """The paragraph that the user reads."""
    if isinstance(error, ModuleNotFoundError):
        return (
            f'{error.name} is not installed. Subcommands need MMSegmentation: install this package with its extra '
            '[onedl], or with [openmmlab]; mmseg-invattn doctor tells what is missing'
        )
    text = error.args[0] if isinstance(error, KeyError) else error
    return f'{type(error).__name__}: {text} (--debug shows where it came up)'
