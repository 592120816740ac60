"""Puts a table that a tool measured into the document that shows it."""

from pathlib import Path

from ..engine.atomic_backend import AtomicLocalBackend


def replace_table(path: Path, table: str, name: str = 'table') -> None:
    """Replaces the text between the lines ``<!-- NAME -->`` and ``<!-- end -->`` of a file by a table.

    Raises:
        ValueError: the file has no such lines.
    """
    before, marker, rest = path.read_text(encoding='utf-8').partition(f'<!-- {name} -->\n')
    _, end, after = rest.partition('<!-- end -->')
    if not (marker and end):
        raise ValueError(f'{path} has no lines <!-- {name} --> and <!-- end -->: add them where the table belongs')
    AtomicLocalBackend().put_text(f'{before}{marker}{table}\n{end}{after}', path)
