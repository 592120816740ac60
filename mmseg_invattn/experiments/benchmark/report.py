"""The measurements as a Markdown table and as JSON."""

import json
import os
import platform
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median, quantiles

import numpy as np
import torch

from ...engine.atomic_backend import AtomicLocalBackend
from ..compare.environment import commit, processor_name

WRITTEN = ('benchmark.md', 'benchmark.json')
HEADER = (
    '| what | against | sizes | quantity | ours | peer | ours / peer (quartiles) |\n'
    '| --- | --- | --- | --- | --- | --- | --- |'
)


@dataclass(frozen=True)
class Quantity:
    """One number for both sides; ``ratio`` is ours divided by the peer's.

    Attributes:
        unit: s, bytes, images/s, or empty.
        peer: None if there is nothing to compare with; then ratio and quartiles are None too.
        quartiles: of the ratio, over rounds or samples.
        limit: the largest ratio that meets the target; None without a target.
    """

    name: str
    unit: str
    ours: float
    peer: float | None = None
    ratio: float | None = None
    quartiles: tuple[float, float] | None = None
    limit: float | None = None

    @property
    def met(self) -> bool | None:
        return None if self.limit is None or self.ratio is None else self.ratio <= self.limit


def compared(
    name: str, unit: str, ours: list[float], peer: list[float], limit: float | None = None, worst: bool = False
) -> Quantity:
    """Median of each side and of the ratios of pairs; with ``worst`` the largest instead of the median."""
    ratios = [a / b for a, b in zip(ours, peer, strict=True)]
    low, _, high = quantiles(ratios, method='inclusive') if len(ratios) > 1 else ratios * 3
    middle = max if worst else median
    return Quantity(name, unit, middle(ours), middle(peer), middle(ratios), (low, high), limit)


@dataclass(frozen=True)
class Line:
    """One comparison. If it has no quantities, it was not measured, and the note says why."""

    what: str
    peer: str
    sizes: dict
    quantities: list[Quantity] = field(default_factory=list)
    note: str = ''

    def with_note(self, note: str, *quantities: Quantity) -> 'Line':
        return replace(self, note=note, quantities=list(quantities))

    def markdown(self) -> str:
        sizes = ', '.join(f'{name} {value}' for name, value in self.sizes.items())
        start = f'| {self.what} | {self.peer} | {sizes}{"; " if self.note else ""}{self.note} |'
        rows = [
            f'{start} {q.name} | {shown(q.ours, q.unit)} | {shown(q.peer, q.unit)} | {ratio(q)} |'
            for q in self.quantities
        ]
        return '\n'.join(rows or [f'{start} - | - | - | - |'])

    def as_dict(self) -> dict:
        return asdict(self) | dict(quantities=[asdict(q) | dict(met=q.met) for q in self.quantities])


def shown(value: float | None, unit: str) -> str:
    """A number in a readable unit."""
    if value is None:
        return '-'
    if unit == 's':
        return f'{value:.3g} s' if value >= 1 else f'{value * 1e3:.3g} ms'
    if unit == 'bytes':
        return f'{value / 2**30:.2f} GiB' if value >= 2**30 else f'{value / 2**20:.3g} MiB'
    return f'{value:.3g} {unit}'.strip()


def ratio(q: Quantity) -> str:
    if q.ratio is None:
        return '-'
    return f'{q.ratio:.3g} ({q.quartiles[0]:.3g} to {q.quartiles[1]:.3g})'


def environment(device: str) -> dict:
    """Versions of the software, and the machine."""
    return dict(
        torch=torch.__version__,
        cuda=torch.version.cuda,
        numpy=np.__version__,
        python=platform.python_version(),
        commit=commit(),
        cpu=processor_name(),
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        load=round(os.getloadavg()[0], 2),
        gpu=torch.cuda.get_device_name() if device.startswith('cuda') else None,
    )


class Report:
    """Prints every line when it is ready and rewrites both files, so that an interrupted run keeps its results."""

    def __init__(self, out: Path, device: str, command: str):
        self.out, self.lines = out, []
        self.head = dict(command=command, **environment(device))
        out.mkdir(parents=True, exist_ok=True)
        print(f'{self.preamble()}\n{HEADER}', flush=True)

    def preamble(self) -> str:
        return ', '.join(f'{name} {value}' for name, value in self.head.items() if value is not None) + '\n'

    def add(self, line: Line) -> Line:
        self.lines.append(line)
        print(line.markdown(), flush=True)
        table = '\n'.join([self.preamble(), HEADER, *(line.markdown() for line in self.lines)])
        numbers = json.dumps(self.head | dict(lines=[line.as_dict() for line in self.lines]), indent=1)
        for name, text in zip(WRITTEN, (f'{table}\n', numbers), strict=True):
            AtomicLocalBackend().put_text(text, self.out / name)
        return line
