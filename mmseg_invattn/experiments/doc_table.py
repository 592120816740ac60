"""A table that a tool measured, in the document that shows it."""

from pathlib import Path

from ..engine.atomic_backend import AtomicLocalBackend


def replace_table(path: Path, table: str, name: str = 'table') -> None:
    """Puts a table between the lines ``<!-- NAME -->`` and ``<!-- end -->`` of a text file.

    Raises:
        ValueError: the file has no such lines.
    """
    before, marker, rest = path.read_text(encoding='utf-8').partition(f'<!-- {name} -->\n')
    _, end, after = rest.partition('<!-- end -->')
    if not (marker and end):
        raise ValueError(f'{path} has no lines <!-- {name} --> and <!-- end -->: add them where the table belongs')
    AtomicLocalBackend().put_text(f'{before}{marker}{table}\n{end}{after}', path)
