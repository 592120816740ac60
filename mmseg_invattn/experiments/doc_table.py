"""Puts a table that a tool measured into the document that shows it."""

from pathlib import Path

from ..engine.atomic_backend import AtomicLocalBackend


def around_table(path: Path, name: str = 'table') -> tuple[str, str]:
    """The text of a file up to the line ``<!-- NAME -->``, and from the next line ``<!-- end -->`` on.

    Long measurements call it before they begin, to find a wrong file in time.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file has no such lines.
    """
    before, marker, rest = path.read_text(encoding='utf-8').partition(f'<!-- {name} -->\n')
    _, end, after = rest.partition('<!-- end -->')
    if not (marker and end):
        raise ValueError(f'{path} has no lines <!-- {name} --> and <!-- end -->: add them where the table belongs')
    return before + marker, end + after


def replace_table(path: Path, table: str, name: str = 'table') -> None:
    """Replaces the text between the lines of :func:`around_table` by a table."""
    before, after = around_table(path, name)
    AtomicLocalBackend().put_text(f'{before}{table}\n{after}', path)
