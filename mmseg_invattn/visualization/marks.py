"""Marks in pictures and videos that say what each was made from, so that an interrupted prediction can be continued.

A PNG has its mark in a text chunk after the header, an MP4 in a box at its end that players skip.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from pathlib import Path

from torch import nn

from ..ops.fingerprint import fingerprint

SIGNATURE = b'\x89PNG\r\n\x1a\n'
HEADER = len(SIGNATURE) + 25  # bytes of the signature and the first chunk
KEYWORD = b'mmseg_invattn\0'
LENGTH = 16  # letters of a mark
BLOCK = 2**20  # bytes of a file that are read at a time


def mark_of_run(model: nn.Module, *settings: object) -> str:
    """A hash of the weights and the config of a model, and of all other settings on which its pictures depend."""
    weights = model.state_dict()
    numbers = [int(number) for number in fingerprint(weights.values())]
    content = repr((list(zip(weights, numbers, strict=True)), model.cfg.model, model.dataset_meta, settings))
    return hashlib.sha256(content.encode()).hexdigest()[:LENGTH]


def mark_of_input(run: str, file: Path) -> str:
    """The mark of the pictures that a run makes from an image or a video."""
    digest = hashlib.sha256(run.encode())
    with open(file, 'rb') as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()[:LENGTH]


def marked(png: bytes, mark: str) -> bytes:
    """The PNG with the mark added; unchanged if there is no mark."""
    if not mark:
        return png
    chunk = b'tEXt' + KEYWORD + mark.encode()
    framed = struct.pack('>I', len(chunk) - 4) + chunk + struct.pack('>I', zlib.crc32(chunk))
    return png[:HEADER] + framed + png[HEADER:]


def append_mark(mp4: Path, mark: str) -> None:
    """Write a mark at the end of a video."""
    if mark:
        box = b'free' + KEYWORD + mark.encode()
        with open(mp4, 'ab') as stream:
            stream.write(struct.pack('>I', len(box) + 4) + box)


def mark_of(file: Path) -> str | None:
    """The mark of a picture or a video; None if there is no such file or it has no mark."""
    try:
        with open(file, 'rb') as stream:
            start = stream.read(HEADER + 8 + len(KEYWORD) + LENGTH)
            if start.startswith(SIGNATURE):
                return _after_keyword(start[HEADER + 8 :])
            size = stream.seek(0, 2)
            stream.seek(max(0, size - LENGTH - len(KEYWORD)))
            return _after_keyword(stream.read())
    except OSError:
        return None


def _after_keyword(content: bytes) -> str | None:
    return content.removeprefix(KEYWORD).decode('ascii', 'replace') if content.startswith(KEYWORD) else None
