"""Tells mistakes of a user, which are reported in one paragraph, from bugs, which keep their traceback.

An error counts as a mistake of the user if its text was written for users:

- a ``raise`` of this package is the innermost line of its traceback, in this process or in a worker of a data loader;
- MMEngine was reading the config or building a part of it;
- a loader of mmcv or mmseg was reading an image or a label;
- the system refused a file, a port or memory.

A ``TypeError`` or ``ValueError`` that Python, torch or another package raises elsewhere counts as a bug.
"""

from __future__ import annotations

import errno
import linecache
import re
import traceback
from dataclasses import dataclass

from ..doctor import INSTALL_ONEDL
from ..paths import PACKAGE

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
FILES = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)
REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EADDRINUSE)
# errors that a class raises for arguments that it does not take
BUILDING_KINDS = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    AssertionError,
    IndexError,
    ImportError,
    RuntimeError,
)
BUILDING_FILES = re.compile(r'mmengine/(registry|config)/\w+\.py$')
BUILDING_CALLS = re.compile(r'__init__|from_cfg|build_\w+')  # methods of MMEngine's Runner
LOADING_FILES = re.compile(r'(mmcv|mmseg/datasets)/transforms/loading\.py$')
# errors of torch and the advice for each; by name, so that torch need not be imported
OF_TORCH = {
    'OutOfMemoryError': 'The device has too little memory: make the batches or the images smaller',
    'DistNetworkError': 'Choose a free port: PORT=29501 tools/dist_train.sh ..., or --master_port of torchrun',
}
PEER_GONE = re.compile(r'Connection (closed|reset) by peer|remote process exited')  # gloo, NCCL
WORKER = re.compile(r'Caught \w+ in (DataLoader worker process \d+|pin memory thread[^.]*)\.\nOriginal Traceback')
FRAME = re.compile(r'^  File "(?P<file>.+)", line (?P<line>\d+), in (?P<call>.+)$', re.MULTILINE)
LAST_LINE = re.compile(r'^(?P<kind>[A-Za-z_][\w.]*)(: (?P<text>.*))?$', re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Cause:
    """The place where an error was first raised.

    Attributes:
        kind: Class of the error.
        text: Message of the error.
        frames: (file, line, function), the innermost last.
        worker: The data loader's worker that raised it; empty for this process.
    """

    kind: str
    text: str
    frames: list[tuple[str, int, str]]
    worker: str = ''


def cause_of(error: BaseException) -> Cause:
    """Read the original error from the text that a data loader wraps around an error of a worker."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    worker = WORKER.search(text)
    if worker:
        *_, last = FRAME.finditer(text)
        # after the frame come its line of code and the marks under it, both indented, and then the error
        below = re.sub(r'\A(\n {4}.*)*\n', '', text[last.end() :])
        said = LAST_LINE.match(below)
        frames = [(found['file'], int(found['line']), found['call']) for found in FRAME.finditer(text)]
        if said:
            kind = said['kind'].rpartition('.')[-1]
            return Cause(kind, (said['text'] or '').strip(), frames, worker[1].replace('process ', ''))
    frames = [(frame.filename, frame.lineno or 0, frame.name) for frame in traceback.extract_tb(error.__traceback__)]
    return Cause(type(error).__name__, text, frames)


def is_mistake(error: BaseException) -> bool:
    """Whether an error is a mistake of the user, not a bug."""
    if isinstance(error, ModuleNotFoundError) and error.name in STACK:
        return True
    if isinstance(error, OSError) and (isinstance(error, FILES) or error.errno in REFUSED):
        return True
    cause = cause_of(error)
    if cause.kind in OF_TORCH or (cause.frames and _raised_here(*cause.frames[-1])):
        return True
    if any(LOADING_FILES.search(file) for file, _, _ in cause.frames):
        return True
    return isinstance(error, BUILDING_KINDS) and any(_builds(file, call) for file, _, call in cause.frames)


def _raised_here(file: str, line: int, call: str) -> bool:
    """Whether this package raised it on purpose."""
    return file.startswith(f'{PACKAGE}/') and linecache.getline(file, line).lstrip().startswith('raise')


def _builds(file: str, call: str) -> bool:
    """Whether a frame belongs to MMEngine's code that reads a config or builds a part of it."""
    if BUILDING_FILES.search(file):
        return True
    return file.endswith('mmengine/runner/runner.py') and BUILDING_CALLS.fullmatch(call) is not None


def lost_peer(error: BaseException) -> bool:
    """Whether a process fails only because another process of a distributed run has ended."""
    return isinstance(error, RuntimeError) and PEER_GONE.search(str(error)) is not None


def explanation(error: BaseException) -> str:
    """The paragraph that the user reads."""
    if isinstance(error, ModuleNotFoundError) and error.name in STACK:
        return (
            f'{error.name} is not installed, but this subcommand needs MMSegmentation: {INSTALL_ONEDL} '
            '(mmseg-invattn doctor lists everything that is missing)'
        )
    cause = cause_of(error)
    text = cause.text
    if isinstance(error, OSError) and error.strerror:
        text = f'{error.filename}: {error.strerror}' if error.filename else error.strerror
    elif cause.kind in OF_TORCH:
        text = f'{text.splitlines()[0] if text else cause.kind}. {OF_TORCH[cause.kind]}'
    elif cause.kind != 'AssertionError' and not (cause.frames and _raised_here(*cause.frames[-1])):
        text = f'{cause.kind}: {text}'
    return text + (f' (in {cause.worker})' if cause.worker else '')
