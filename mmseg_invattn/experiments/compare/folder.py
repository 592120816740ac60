"""The folder of a comparison. Files are written whole or not at all, and files of others are never overwritten.

OUT/report.html, report.md, results.json, speed.json
OUT/<config name>/seed_<seed>/run.json, trained.json, evaluation.json or failed.json, and the files of the run
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from ...engine.atomic_backend import AtomicLocalBackend
from ...wording import counted
from .plan import Run

WRITTEN = {'report.html', 'report.md', 'results.json', 'speed.json', 'speed.log', '.lock'}


def write_json(path: Path, content: object) -> None:
    """JSON with each list of numbers or words on one line, so that results are readable in a repository."""
    text = re.sub(r'\[\n[^\[\]{}]*?\]', _on_one_line, json.dumps(content, indent=1, allow_nan=False))
    AtomicLocalBackend().put_text(f'{text}\n', path)


def _on_one_line(found: re.Match) -> str:
    return f'[{" ".join(line.strip() for line in found[0][1:-1].splitlines() if line.strip())}]'


def read_json(path: Path) -> dict | None:
    """The content of a JSON file; None if there is no such file."""
    return json.loads(path.read_text(encoding='utf-8')) if path.is_file() else None


def run_folders(out: Path) -> list[Path]:
    """The runs that a folder holds.

    Raises:
        ValueError: it holds files that are not those of a comparison.
        NotADirectoryError: it is a file.
    """
    if not out.exists():
        return []
    if not out.is_dir():
        raise NotADirectoryError(f'--out {out} is a file; give a folder')
    found = []
    for entry in sorted(out.iterdir()):
        if entry.name in WRITTEN or (entry.name.startswith('.') and entry.name.endswith('.part')):
            continue
        folders = sorted(entry.iterdir()) if entry.is_dir() else []
        if not folders or not all((folder / 'run.json').is_file() for folder in folders):
            raise ValueError(f'--out {out} holds {entry.name}, which is not part of a comparison: give another --out')
        found += folders
    return found


def check_folder(out: Path, runs: Sequence[Run], resume: bool, overwrite: bool = False) -> None:
    """Refuse a folder that holds anything except earlier results of the same runs.

    Args:
        out: the folder.
        runs: of the comparison.
        resume: whether to continue the existing runs.
        overwrite: whether all existing runs will be removed.

    Raises:
        ValueError: it holds files of others, or runs that this comparison does not name or that have another config,
            seed or options; or it holds these runs, but neither ``resume`` nor ``overwrite`` is set.
        NotADirectoryError: it is a file.
    """
    names, planned = {run.name for run in runs}, {run.folder: run for run in runs}
    found = run_folders(out)
    hint = 'give another --out, or --overwrite to remove everything in it'
    for folder in () if overwrite else found:
        if folder.parent.name not in names:
            raise ValueError(
                f'--out {out} holds another comparison, with the config {folder.parent.name}: give that config '
                f'too, or {hint}'
            )
        if folder not in planned:
            raise ValueError(
                f'--out {out} holds another comparison, with {folder.parent.name}, {folder.name}: give '
                f'that seed too, or {hint}'
            )
        if read_json(folder / 'run.json')['fingerprint'] != planned[folder].fingerprint:
            raise ValueError(
                f'--out {out} holds another comparison: the config, the --cfg-options or the checkpoint '
                f'of {folder.parent.name}, {folder.name} were different: {hint}'
            )
    if found and not resume and not overwrite:
        raise ValueError(
            f'--out {out} holds {counted(len(found), "run")} of this comparison: give --resume to continue, or {hint}'
        )
