"""report.html and report.md of a comparison, from its results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from ...engine.atomic_backend import AtomicLocalBackend
from ...wording import counted
from .charts import differences, learning_curves
from .columns import ACCURACY, CERTIFICATE, COST, Column, cells, class_columns
from .folder import write_json


def write_reports(out: Path, results: dict, pictures: Sequence[dict]) -> None:
    """Write results.json, report.md and report.html into a folder."""
    write_json(out / 'results.json', results)
    AtomicLocalBackend().put_text(markdown(results), out / 'report.md')
    AtomicLocalBackend().put_text(html(results, pictures), out / 'report.html')


def tables(results: dict) -> list[dict]:
    """Title, note and columns of every table."""
    speed = results['speed']
    measured = (
        f' Speed on {speed["device"]}, images of {speed["shape"][1]} x {speed["shape"][0]}, batches of '
        f'{speed["batch"]}.'
        if speed.get('shape')
        else ''
    )
    return [
        dict(name='Accuracy', columns=ACCURACY, note=_interval_note(results)),
        dict(name='Cost', columns=COST, note=measured.strip()),
        dict(
            name='Invertibility',
            columns=CERTIFICATE,
            note='A dash: the head has no attention, no inverse or no certificate.',
        ),
        dict(name='Classes', columns=class_columns(results['classes']), note='IoU in percent.'),
    ]


def _interval_note(results: dict) -> str:
    if len(results['seeds']) == 1:
        return (
            'One seed: the interval is that of a paired bootstrap over the images. It does not say how much '
            'another training would differ.'
        )
    return 'The interval of 95 % covers both other seeds and other images.'


def html(results: dict, pictures: Sequence[dict]) -> str:
    """The page, with everything in it that it needs."""
    environment = Environment(
        loader=PackageLoader('mmseg_invattn.experiments.compare', '.'),
        undefined=StrictUndefined,
        autoescape=select_autoescape(['html.jinja'], default=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    baseline = next(head['label'] for head in results['heads'] if head['name'] == results['baseline'])
    heads = results['heads']
    shown = [
        dict(table, rows=[dict(head=head, cells=cells(head, table['columns'])) for head in heads])
        for table in tables(results)
    ]
    return environment.get_template('report.html.jinja').render(
        results=results,
        tables=shown,
        baseline=baseline,
        pictures=pictures,
        split=_split(results),
        differences=differences(heads, baseline),
        curves=learning_curves(heads),
        best=_best(heads),
        failed=[(head, run) for head in heads for run in head['runs'] if run['status'] != 'done'],
        legend=list(zip(results['classes'], results['palette'], strict=True)),
    )


def markdown(results: dict) -> str:
    """The tables, and what happened to the runs, as text."""
    lines = ['# Comparison', '', f'{_split(results)} Baseline: {results["baseline"]}.', '']
    if results['options']:
        lines += [
            'Options of every config:',
            '',
            '```',
            *(f'{key}={value}' for key, value in results['options'].items()),
            '```',
            '',
        ]
    for table in tables(results):
        if table['columns']:
            lines += [
                f'## {table["name"]}',
                '',
                *_markdown_table(results['heads'], table['columns']),
                '',
                *([table['note'], ''] if table['note'] else []),
            ]
    lines += [
        '## Runs',
        '',
        '| head | seed | status | mIoU | commit | device | config |',
        '| --- | ---: | --- | ---: | --- | --- | --- |',
    ]
    for head in results['heads']:
        for run in head['runs']:
            start = run['starts'][-1] if run['starts'] else {}
            status = run['failure']['message'] if run['failure'] else run['status']
            miou = '-' if run['miou'] is None else f'{run["miou"]:.2f}'
            lines.append(
                f'| {head["label"]} | {run["seed"]} | {status} | {miou} | {start.get("commit") or "-"} | '
                f'{start.get("device", "-")} | {run["config"]} |'
            )
    return '\n'.join(lines) + '\n'


def _markdown_table(heads: Sequence[dict], columns: Sequence[Column]) -> list[str]:
    rows = [['head', *(column.title for column in columns)], ['---', *['---:'] * len(columns)]]
    rows += [[head['label'], *(cell.text for cell in cells(head, columns))] for head in heads]
    return [f'| {" | ".join(row)} |' for row in rows]


def _split(results: dict) -> str:
    """One sentence on the data."""
    seeds = ', '.join(map(str, results['seeds']))
    return (
        f'{counted(len(results["heads"]), "head")}, {counted(results["images"], "image")}, '
        f'{counted(len(results["classes"]), "class")}, '
        f'seed{"s" * (len(results["seeds"]) > 1)} {seeds}.'
    )


def _best(heads: Sequence[dict]) -> dict | None:
    return max((head for head in heads if head.get('miou') is not None), key=lambda head: head['miou'], default=None)
