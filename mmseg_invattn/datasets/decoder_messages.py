"""Catches what image decoders print about damaged data, because they report damage in no other way.

When libjpeg meets damaged data it makes up pixels, goes on, and prints one line to the standard error of the process.
libtiff inside OpenCV does the same. Pillow drops these lines for JPEG.
"""

import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# Lines that mean lost pixels. Others, such as `libpng warning: iCCP: known incorrect sRGB profile`, are harmless.
DAMAGE = re.compile(
    r'Corrupt JPEG data: (?!bad ICC)|Premature end of JPEG|Inconsistent progression|Invalid SOS parameters'  # libjpeg
    r'|libpng error|TIFF_Error|errorLogCallback|Stream does not end with EOC'  # others, as OpenCV prints them
    r'|^(JPEGLib|\w+Decode|tempfile\.tif|TIFF\w+): (?!Warning)'  # libtiff, as Pillow lets it print
)
LOG_PREFIX = re.compile(r'^\[.*?\] global \S+ \w+ ')  # of OpenCV

_lock = threading.Lock()  # all threads share one standard error
if hasattr(os, 'register_at_fork'):  # a forked worker must not inherit a lock held by a thread that it does not have
    os.register_at_fork(after_in_child=_lock._at_fork_reinit)


class Messages:
    """What was printed; ``text`` is set at the end of the with statement."""

    text = ''

    def damage(self) -> str | None:
        """The first line that reports damaged data, without its full stop; None if there is no such line."""
        found = next((line for line in self.text.splitlines() if DAMAGE.search(line)), None)
        return found and LOG_PREFIX.sub('', found).strip().rstrip('.')


@contextmanager
def decoder_messages() -> Iterator[Messages]:
    """Catch what C libraries print to the standard error of this process inside the with statement.

    It costs 0.02 ms. Lines that do not report damage, other threads' lines included, are printed afterwards.
    """
    messages = Messages()
    with _lock:
        try:
            terminal = os.dup(2)
        except OSError:  # some services start programs with a closed standard error
            terminal = os.open(os.devnull, os.O_WRONLY)
        caught = _memory_file()
        try:
            os.dup2(caught, 2)
            try:
                yield messages
            finally:
                os.dup2(terminal, 2)
                if os.lseek(caught, 0, os.SEEK_CUR):
                    os.lseek(caught, 0, os.SEEK_SET)
                    messages.text = os.read(caught, 1 << 16).decode(errors='replace')
                others = ''.join(line for line in messages.text.splitlines(True) if not DAMAGE.search(line))
                if others:
                    with suppress(OSError):
                        os.write(terminal, others.encode())
        finally:
            os.close(caught)
            os.close(terminal)


def _memory_file() -> int:
    if hasattr(os, 'memfd_create'):
        return os.memfd_create('decoder')
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
