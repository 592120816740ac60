"""One table of all reconstruction experiments below a folder."""

import json
from collections.abc import Callable
from pathlib import Path

RESULT = 'result.json'
# heading -> content of the cell
CELLS: dict[str, Callable[[dict], str]] = {
    'data': lambda r: r['dataset'],
    'form': lambda r: r['form'],
    'mode': lambda r: r['mode'],
    'epochs': lambda r: f'{r["epochs"]:g}',
    'training (s)': lambda r: f'{r["train_seconds"]:.0f}',
    'test (s)': lambda r: f'{r["test_seconds"]:.0f}',
    'iterations, mean': lambda r: f'{r["iterations"]:.1f}',
    'most': lambda r: f'{r["most_iterations"]:.0f}',
    'L1': lambda r: f'{r["l1"]:.1e}',
    'L2': lambda r: f'{r["l2"]:.1e}',
    'PSNR (dB)': lambda r: f'{r["psnr"]:.0f}',
    'max error': lambda r: f'{r["worst_max_error"]:.1e}',
    'largest bound': lambda r: _number(r['largest_bound'], '.1e'),
    'bound broken': lambda r: _number(r['bound_broken'], '.0f'),
    'not converged': lambda r: f'{r["not_converged"]:.0f}',
    'not recovered': lambda r: f'{r["not_recovered"]:.0f}',
    'of these by the plain iteration': lambda r: '' if not r.get('plain_images') else f'{r["plain_recovered"]:.0f}',
}


def read_results(folder: Path) -> list[dict]:
    """All results below a folder, by data set, form and mode.

    Raises:
        FileNotFoundError: there are none.
    """
    results = [json.loads(path.read_text(encoding='utf-8')) for path in sorted(folder.rglob(RESULT))]
    if not results:
        raise FileNotFoundError(
            f'{folder} contains no {RESULT}: run tools/reconstruct.py CONFIG --out {folder}/NAME first'
        )
    return sorted(results, key=lambda r: (r['dataset'], r['form'], r['mode']))


def reconstruction_table(results: list[dict]) -> str:
    """A Markdown table with one line per result."""
    lines = ['| ' + ' | '.join(CELLS) + ' |', '| ' + ' | '.join('---' for _ in CELLS) + ' |']
    lines += ['| ' + ' | '.join(cell(result) for cell in CELLS.values()) + ' |' for result in results]
    return '\n'.join(lines)


def _number(value: float, spec: str) -> str:
    return 'none' if value != value else format(value, spec)
