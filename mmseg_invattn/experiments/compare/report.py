"""report.html and report.md of a comparison, from its results, and the tables for a document."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from ...engine.atomic_backend import AtomicLocalBackend
from ...wording import counted
from ..doc_table import replace_table
from .charts import all_curves, differences, learning_curves, picture
from .columns import CERTIFICATE, COST, Column, accuracy_columns, cells, class_columns
from .facts import facts, reduced, warnings
from .findings import findings, is_ahead_of_all
from .folder import write_json
from .pictures import ERROR_LEGEND

IN_DOCUMENTS = ('Accuracy', 'Cost', 'Attention')  # the tables for a document


def write_reports(out: Path, results: dict, pictures: Sequence[dict], document: Path | None = None) -> None:
    """Write results.json, report.md and report.html into a folder, the tables and a picture into a document."""
    write_json(out / 'results.json', results)
    AtomicLocalBackend().put_text(markdown(results), out / 'report.md')
    AtomicLocalBackend().put_text(html(results, pictures), out / 'report.html')
    if document is not None:
        shown = _picture_lines(results, document) + _markdown_tables(results, IN_DOCUMENTS, '###')
        replace_table(document, '\n'.join(shown).strip())


def _picture_lines(results: dict, document: Path) -> list[str]:
    """Write the picture of a document into a file beside it; returns the lines that show it."""
    baseline, margin = _baseline(results), results['margin']
    drawn = picture(results['heads'], baseline, margin)
    if not drawn:
        return []
    AtomicLocalBackend().put_text(drawn, document.with_suffix('.svg'))
    dashed = '' if margin is None else f', the dashed line at {-margin:g} the margin'
    return [
        f'![Differences of the mIoU to that of {baseline}, and learning curves]({document.stem}.svg)',
        '',
        f'*Above: differences of the mIoU to that of {baseline}. A dot is the mean, the bar its 95 % interval, a '
        f'stroke a seed{dashed}. Below: learning curves, as means over the seeds.*',
        '',
    ]


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
        dict(name='Accuracy', columns=accuracy_columns(_baseline(results), results['margin']), note=''),
        dict(name='Cost', columns=COST, note=measured.strip()),
        dict(
            name='Attention',
            columns=CERTIFICATE,
            note='A dash means that the head has no attention, no inverse or no certificate.',
        ),
        dict(name='Classes', columns=class_columns(results['classes']), note='IoU in per cent.'),
    ]


def _baseline(results: dict) -> str:
    return next(head['label'] for head in results['heads'] if head['name'] == results['baseline'])


def html(results: dict, pictures: Sequence[dict]) -> str:
    """The self-contained page."""
    environment = Environment(
        loader=PackageLoader('mmseg_invattn.experiments.compare', '.'),
        undefined=StrictUndefined,
        autoescape=select_autoescape(['html.jinja'], default=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    heads, baseline = results['heads'], _baseline(results)
    shown = [
        dict(table, rows=[dict(head=head, cells=cells(head, table['columns'])) for head in heads])
        for table in tables(results)
    ]
    return environment.get_template('report.html.jinja').render(
        results=results,
        tables=shown,
        baseline=baseline,
        pictures=pictures,
        facts=facts(results),
        reduced=reduced(results),
        warnings=warnings(results),
        findings=findings(results),
        differences=differences(heads, baseline, results['margin']),
        together=all_curves(heads),
        curves=learning_curves(heads),
        ahead=[head['name'] for head in heads if is_ahead_of_all(results, head)],
        leader=next((head for head in heads if results['leader'] and head['name'] == results['leader']['name']), None),
        failed=[(head, run) for head in heads for run in head['runs'] if run['status'] != 'done'],
        legend=list(zip(results['classes'], results['palette'], strict=True)),
        error_legend=ERROR_LEGEND,
    )


def markdown(results: dict) -> str:
    """The tables and the status of the runs as text."""
    lines = [f'# Comparison of {counted(len(results["heads"]), "head")}', '']
    if reduced(results):
        lines += [f'**{reduced(results)}**', '']
    lines += [f'- {name}: {text}' for name, text in [('baseline', _baseline(results)), *facts(results)]]
    lines += ['', *(line for warning in warnings(results) for line in (f'**{warning}**', ''))]
    lines += _markdown_tables(results)
    lines += [
        '## Runs',
        '',
        '| head | seed | status | mIoU | commit | device | config |',
        '| --- | ---: | --- | ---: | --- | --- | --- |',
    ]
    for head in results['heads']:
        for run in head['runs']:
            place = results['places'][run['starts'][-1]['place']] if run['starts'] else {}
            status = run['failure']['message'] if run['failure'] else run['status']
            miou = '-' if run['miou'] is None else f'{run["miou"]:.2f}'
            lines.append(
                f'| {head["label"]} | {run["seed"]} | {status} | {miou} | {place.get("commit") or "-"} | '
                f'{place.get("device", "-")} | {run["config"]} |'
            )
    return '\n'.join(lines) + '\n'


def _markdown_tables(results: dict, names: Sequence[str] | None = None, heading: str = '##') -> list[str]:
    """Tables with their notes, all or those of these names; the findings come behind the accuracy."""
    lines = []
    for table in tables(results):
        if not table['columns'] or names is not None and table['name'] not in names:
            continue
        rows = _markdown_table(results['heads'], table['columns'])
        lines += [f'{heading} {table["name"]}', '', *rows, '', *([table['note'], ''] if table['note'] else [])]
        if table['name'] == 'Accuracy':
            lines += [line for finding in findings(results) for line in (finding, '')]
    return lines


def _markdown_table(heads: Sequence[dict], columns: Sequence[Column]) -> list[str]:
    rows = [['head', *(column.title for column in columns)], ['---', *['---:'] * len(columns)]]
    rows += [[head['label'], *(cell.text for cell in cells(head, columns))] for head in heads]
    return [f'| {" | ".join(row)} |' for row in rows]
