"""Runs the code of a Markdown page as its readers do, from the first block to the last: `python pages.py PAGE ...`.

The ``python`` blocks of a page share their names, as in one session of Python. A ``shell`` block is a bash of its own
that stops at the first command that fails. All of them run in one folder. A ``text`` block that is the next one after a
block of code is what it prints: its lines have to be in the output, in this order, where numbers may differ and a line
``...`` stands for any others. Blocks in other languages are not run.
"""

import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FENCE = re.compile(r'^( *)(`{3,}) *([\w-]+)[^\n]*\n(.*?)^\1\2 *$', re.DOTALL | re.MULTILINE)
CODE = ('python', 'shell')
NUMBER = re.compile(r'(?<![\w.])[-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?', re.IGNORECASE)


class PageError(AssertionError):
    """A block of a page failed, or printed something else than the page says."""


class Block(NamedTuple):
    language: str
    code: str
    line: int  # of the first line of the code, from 1


def blocks(text: str) -> Iterator[Block]:
    """The fenced blocks of a page."""
    for match in FENCE.finditer(text):
        code = re.sub(rf'^{match[1]}', '', match[4], flags=re.MULTILINE)
        yield Block(match[3], code, text.count('\n', 0, match.start(4)) + 1)


def run_page(page: Path, languages: tuple[str, ...] = CODE, without: str | None = None) -> None:
    """Runs the blocks of a page in the working folder.

    Args:
        page: the Markdown file.
        languages: of the blocks to run.
        without: a text; blocks that have it are not run.

    Raises:
        PageError: with the page, the line and the output of the block.
    """
    names, output = {'__name__': page.stem}, None
    for block in blocks(page.read_text(encoding='utf-8')):
        place = f'{page}:{block.line}'
        if block.language in languages and (without is None or without not in block.code):
            output = (
                run_python(block, place, str(page), names) if block.language == 'python' else run_shell(block, place)
            )
            continue
        if block.language == 'text' and output is not None:
            missing = first_missing(block.code, output)
            if missing is not None:
                raise PageError(f'{place}: the code above does not print\n    {missing}\nbut\n{output}')
        output = None


def run_python(block: Block, place: str, page: str, names: dict) -> str:
    """The output of a block, whose code is compiled with the line numbers of its page."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            exec(compile('\n' * (block.line - 1) + block.code, page, 'exec'), names)
    except Exception as error:
        where = ''.join(traceback.format_exception(error, limit=-3))
        raise PageError(f'{place}: this block fails, after it printed\n{said.getvalue()}\n{where}') from None
    return said.getvalue()


def run_shell(block: Block, place: str) -> str:
    """The output of a block, in which the commands of this Python come first."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get('PATH', os.defpath)])
    done = subprocess.run(
        ['bash', '-c', f'set -euo pipefail\n{block.code}'],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding='utf-8',
        errors='replace',
        env=os.environ | {'PATH': path},
    )
    if done.returncode:
        raise PageError(f'{place}: this block ends with exit status {done.returncode} and prints\n{done.stdout}')
    return done.stdout


def first_missing(said: str, output: str) -> str | None:
    """The first line of a ``text`` block that the output does not have behind the line before it."""
    rest = iter([plain(line) for line in re.split(r'[\r\n]+', output)])
    for line in said.splitlines():
        if line.strip() not in ('', '...') and plain(line) not in rest:
            return line
    return None


def plain(line: str) -> str:
    """A line without its numbers and without the spaces and dashes that make columns of them."""
    return re.sub(r'[\s-]+', ' ', NUMBER.sub('#', line)).strip()


if __name__ == '__main__':
    pages = [Path(name).resolve() for name in sys.argv[1:]]
    for page in pages:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            run_page(page)
            os.chdir(page.parent)
        print(f'{page.name}: every block runs')
