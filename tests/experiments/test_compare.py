"""tools/compare.py on two tiny heads: the whole comparison, stopped and resumed, with a run that fails, and refusals.

The steps run in this process, to spare the imports of a new one, but for the slow test.
"""

import argparse
import importlib
import json
import re
import shutil
import subprocess
import sys
import traceback
from functools import partial
from pathlib import Path
from unittest import mock
from xml.etree import ElementTree

import pytest
import torch
from helpers.checkout import ROOT
from helpers.runtime_case import configs_laid_out_quickly, run_tool, tool_environment, write_case
from mmengine.runner import IterBasedTrainLoop

from mmseg_invattn.experiments.compare import compare as course
from mmseg_invattn.experiments.compare import speed
from mmseg_invattn.experiments.compare.evaluation import evaluate
from mmseg_invattn.experiments.compare.folder import write_json
from mmseg_invattn.experiments.compare.process import ProcessFailedError

HEAD = "_base_ = './tiny.py'\nmodel = dict(decode_head=dict({}))\n"
CERTIFIED = "type='InvFCNHead', attention=dict(form='certified')"
OPTIONS = {'train_cfg.val_interval': 3}
STEPS = []  # what was run


def in_process(command: list[str], log: Path, say, **options) -> int:
    """Stands in for run_process."""
    try:
        if 'mmseg_invattn.cli' in command:
            name, *arguments = command[command.index('mmseg_invattn.cli') + 1 :]
            STEPS.append((name, *Path(command[-2]).parts[-2:]))
            run_tool(name, *arguments)
        elif 'mmseg_invattn.experiments.compare.evaluation' in command:
            STEPS.append(('evaluate', *Path(command[-1]).parts[-2:]))
            evaluate(Path(command[-1]))
        else:
            STEPS.append(('speed',))
            pairs = (word.split('=') for word in command[4:])
            write_json(Path(command[3]), speed.measure({name: Path(folder) for name, folder in pairs}))
    except Exception as error:
        raise ProcessFailedError('ended with exit status 1', traceback.format_exc().splitlines()) from error
    return 2**30


def run_compare(*configs: str | Path, out: Path, **arguments) -> int:
    args = argparse.Namespace(
        configs=list(map(str, configs)),
        out=out,
        **dict(
            seeds=[0],
            resume=False,
            baseline=None,
            checkpoints=None,
            launcher='none',
            processes=None,
            cfg_options=OPTIONS,
            overwrite=False,
            jobs=1,
            margin=None,
            control=None,
            results=None,
            doc=None,
        )
        | arguments,
    )
    STEPS.clear()
    with (
        mock.patch.object(course, 'run_process', in_process),
        mock.patch.object(speed, 'interleave', partial(speed.interleave, rounds=3)),
        configs_laid_out_quickly(),
    ):
        return course.compare(args)


def read(out: Path) -> dict:
    return json.loads((out / 'results.json').read_text())


@pytest.fixture(scope='module')
def case(tmp_path_factory):
    """Configs of two heads, and the folder of their comparison."""
    folder = tmp_path_factory.mktemp('compare')
    plain, certified = Path(write_case(folder)), folder / 'certified.py'
    certified.write_text(HEAD.format(CERTIFIED))
    assert run_compare(plain, certified, out=folder / 'out') == 0
    return plain, certified, folder / 'out'


def test_all_numbers_are_there(case):
    results = read(case[2])
    assert (results['baseline'], results['seeds'], results['images']) == ('tiny', [0], 4)
    assert results['protocol']['changes'] == [dict(key='train_cfg.val_interval', was='100', now='3')]
    (schedule,) = results['protocol']['schedules']
    assert schedule == dict(length=6, unit='iterations', batch=2, planned=None, heads=['tiny', 'certified'])
    assert results['protocol']['unpaired'] == [] and results['protocol']['apart'] == {}
    plain, certified = results['heads']
    assert (plain['label'], certified['label']) == ('tiny', 'certified')
    for head in results['heads']:
        (run,) = head['runs']
        assert run['status'] == 'done' and run['checkpoint'] == 'iter_6.pth'
        assert 0 <= head['miou'] <= 100 and len(head['iou']) == 3 and head['miou_std'] is None
        assert head['miou'] == pytest.approx(sum(head['iou']) / 3)
        assert run['curves']['loss']['steps'] == [1, 2, 3, 4, 5, 6]
        assert run['curves']['miou']['steps'] == [3, 6]
        # the last validation of the training saw the same weights and images; MMSegmentation rounds to two digits
        assert run['curves']['miou']['values'][-1] == pytest.approx(head['miou'], abs=0.0051)
        assert head['parameters'] > 1000 and head['flops'] > 1e6 and head['training_bytes'] == 2**30
        assert head['seconds_per_iteration'] > 0
        assert 0 < head['speed']['latency'] and 0 < head['speed']['throughput'] and head['speed']['rounds'] >= 3
        assert [start['place'] for start in run['starts']] == [0]
    (place,) = results['places']
    assert place['versions']['torch'] == torch.__version__ and place['device'] and 'commit' in place
    assert plain['difference'] is None
    found = certified['difference']
    assert found['per_seed'] == {'0': pytest.approx(certified['miou'] - plain['miou'])}
    assert found['low'] is found['high'] is None and found['scatter_of_images'] > 0  # one seed
    assert (plain['kind'], plain['share']) == ('none', None)
    assert certified['kind'] == 'invertible' and certified['share'] > 0
    assert results['control'] == dict(name='tiny', gains={})
    assert [plain[key] for key in ('bound', 'local_lipschitz', 'inverse_error', 'evaluations', 'clipped')] == [None] * 5
    assert 0.8 < certified['bound'] <= 0.9 and 0 < certified['local_lipschitz'] <= certified['bound']
    assert certified['inverse_error'] < 1e-5 and certified['evaluations'] >= 1 and 0 <= certified['clipped'] <= 1
    assert certified['inverse_error_absolute'] <= certified['inverse_bound']


def test_reports_show_them(case):
    out, head = case[2], read(case[2])['heads'][1]
    text, page = (out / 'report.md').read_text(), (out / 'report.html').read_text()
    assert f'| certified | {head["miou"]:.2f} | {head["difference"]["mean"]:+.2f} |' in text
    assert '| tiny | - | - | - | - | - | - |' in text  # no attention
    for place in (text, page):
        assert 'Reduced protocol' not in place and 'train_cfg.val_interval=3 (was 100)' in place
        assert f'torch {torch.__version__}' in place and '6 iterations of batch 2' in place
    assert f'{head["miou"]:.2f}' in page and page.count('<svg') == 5
    assert 'http://' not in page.replace('http://www.w3.org', '') and 'https://' not in page
    assert 'data:image/jpeg;base64,' in page and 'data:image/png;base64,' in page


def test_nothing_is_repeated(case):
    plain, certified, out = case
    before = read(out)
    assert run_compare(plain, certified, out=out, resume=True) == 0
    assert STEPS == [] and read(out) == before
    assert run_compare(plain, certified, out=out, resume=True, baseline=str(certified)) == 0
    assert STEPS == [] and read(out)['heads'][0]['difference']['mean'] == -before['heads'][1]['difference']['mean']
    with pytest.raises(ValueError, match='holds 2 runs of this comparison: give --resume to continue'):
        run_compare(plain, certified, out=out)
    assert STEPS == []


def test_goes_on_where_it_was_stopped(case, tmp_path):
    """Interrupted in the middle of a training: from its last checkpoint, to the same weights."""
    plain, certified, whole = case
    iteration = IterBasedTrainLoop.run_iter

    def interrupted(loop, batch):
        if loop._iter == 5:
            raise KeyboardInterrupt
        iteration(loop, batch)

    with mock.patch.object(IterBasedTrainLoop, 'run_iter', interrupted), pytest.raises(KeyboardInterrupt):
        run_compare(plain, certified, out=tmp_path)
    assert STEPS == [('train', 'tiny', 'seed_0')] and not (tmp_path / 'results.json').exists()
    assert run_compare(plain, certified, out=tmp_path, resume=True) == 0
    assert [step[:2] for step in STEPS] == [
        ('train', 'tiny'),
        ('evaluate', 'tiny'),
        ('train', 'certified'),
        ('evaluate', 'certified'),
        ('speed',),
    ]
    assert [len(head['runs'][0]['starts']) for head in read(tmp_path)['heads']] == [2, 1]
    log = sorted((tmp_path / 'tiny' / 'seed_0').glob('2*/*.log'))[-1]
    assert 'iter_4.pth' in log.read_text()
    for ours, theirs in zip(read(tmp_path)['heads'], read(whole)['heads'], strict=True):
        assert ours['miou'] == theirs['miou'] and ours['iou'] == theirs['iou']


def test_a_failed_run_is_reported_and_the_others_go_on(case, tmp_path):
    certified, broken, out = case[1], case[0].with_name('broken.py'), tmp_path / 'out'
    broken.write_text(HEAD.format('in_channels=7'))
    assert run_compare(broken, certified, out=out) == 1  # the baseline itself
    failed, other = read(out)['heads']
    assert other['runs'][0]['status'] == 'done' and other['speed']['latency'] > 0
    assert other['difference'] is None
    run = failed['runs'][0]
    assert run['status'] == 'failed' and run['failure']['message'] == 'training ended with exit status 1'
    assert 'model.decode_head.in_channels is 7' in run['failure']['tail'][-1] and run['miou'] is None
    assert 'set in_channels=8' in (out / 'report.html').read_text()
    assert '| broken | 0 | training ended with exit status 1 | - |' in (out / 'report.md').read_text()
    run_compare(broken, certified, out=out, resume=True)
    assert STEPS == [('train', 'broken', 'seed_0')]  # tried again, and nothing else


def test_given_checkpoints(case, tmp_path):
    """Nothing is trained; weights of another model are refused by the names of the first keys that differ."""
    plain, certified, out = case
    weights = [str(out / name / 'seed_0' / 'iter_6.pth') for name in ('tiny', 'certified')]
    assert run_compare(plain, certified, out=tmp_path / 'right', checkpoints=weights) == 0
    given, trained = read(tmp_path / 'right'), read(out)
    assert [head['iou'] for head in given['heads']] == [head['iou'] for head in trained['heads']]
    assert all(head['seconds_per_iteration'] is None for head in given['heads'])
    assert run_compare(plain, certified, out=tmp_path / 'wrong', checkpoints=weights[::-1]) == 1
    tails = [head['runs'][0]['failure']['tail'][-1] for head in read(tmp_path / 'wrong')['heads']]
    assert all('this checkpoint does not belong to the config' in tail for tail in tails)
    assert 'only in the checkpoint: decode_head.attention.' in tails[0]
    assert 'only in the model: decode_head.attention.' in tails[1]
    with pytest.raises(ValueError, match='names 2 files, but 2 configs with 2 seeds need 4'):
        run_compare(plain, certified, out=tmp_path / 'few', checkpoints=weights, seeds=[0, 1])
    with pytest.raises(FileNotFoundError, match='gone.pth: there is no such checkpoint'):
        run_compare(plain, out=tmp_path / 'gone', checkpoints=['gone.pth'])


def test_overwrite_starts_anew(case, tmp_path):
    plain, _, whole = case
    for name in ('tiny', 'gone'):
        folder = tmp_path / name / 'seed_0'
        folder.mkdir(parents=True)
        (folder / 'run.json').write_text('{"fingerprint": ""}')
        (folder / 'evaluation.json').write_text('{"old": true}')
    arguments = dict(out=tmp_path, checkpoints=[str(whole / 'tiny' / 'seed_0' / 'iter_6.pth')])
    with pytest.raises(ValueError, match='with the config gone: .* or --overwrite to remove'):
        run_compare(plain, **arguments)
    assert (tmp_path / 'gone').exists()
    assert run_compare(plain, overwrite=True, **arguments) == 0
    assert not (tmp_path / 'gone').exists() and STEPS[0] == ('evaluate', 'tiny', 'seed_0')
    assert 'miou' in json.loads((tmp_path / 'tiny' / 'seed_0' / 'evaluation.json').read_text())


def test_the_report_is_written_again_from_its_results(case, tmp_path):
    """Without the runs, so without pictures; the numbers are the same."""
    again = tmp_path / 'again'
    assert run_compare(results=[case[2] / 'results.json'], out=again) == 0 and STEPS == []
    assert (again / 'report.md').read_text() == (case[2] / 'report.md').read_text()
    page = (again / 'report.html').read_text()
    assert page.count('<svg') == 5 and 'id="pictures"' not in page
    with pytest.raises(ValueError, match='holds a report: give another --out, or --overwrite'):
        run_compare(results=[case[2] / 'results.json'], out=again)
    assert run_compare(results=[case[2] / 'results.json'], out=again, overwrite=True) == 0
    page = tmp_path / 'page.md'
    page.write_text('before\n')
    with pytest.raises(ValueError, match='page.md has no lines <!-- table -->'):
        run_compare(results=[case[2] / 'results.json'], out=tmp_path / 'other', doc=page)
    page.write_text('before\n<!-- table -->\nold\n<!-- end -->\nafter\n')
    assert run_compare(results=[case[2] / 'results.json'], out=again, overwrite=True, doc=page) == 0
    before, tables, after = re.split('<!-- table -->\n|\n<!-- end -->', page.read_text())
    picture, tables = tables.split('*\n\n', 1)
    baseline = json.loads((case[2] / 'results.json').read_text())['baseline']  # another test chooses its own
    title = f'Differences of the mIoU to that of {baseline}, and learning curves'
    assert picture.startswith(f'![{title}](page.svg)\n\n*Above: differences of the mIoU to that of {baseline}. A dot')
    assert (before, after) == ('before\n', '\nafter\n') and re.findall('### .*', tables) == [
        '### Accuracy',
        '### Cost',
        '### Attention',
    ]
    drawn = (tmp_path / 'page.svg').read_text()
    assert (
        'certified' in drawn and 'training loss' in drawn and not re.search(r'var\(|#0[1-5]0[1-5]0[1-5]|inherit', drawn)
    )
    assert run_compare(results=[case[2] / 'results.json'], out=again, overwrite=True, doc=page) == 0
    assert (tmp_path / 'page.svg').read_text() == drawn and ElementTree.fromstring(drawn).tag.endswith('svg')
    assert set(tables.replace('###', '##').splitlines()) < set((again / 'report.md').read_text().splitlines())
    with pytest.raises(ValueError, match='holds the runs of a comparison'):
        run_compare(results=[case[2] / 'results.json'], out=case[2])
    with pytest.raises(ValueError, match='is not a results.json'):
        run_compare(results=[case[2] / 'speed.json'], out=tmp_path / 'other')
    with pytest.raises(FileNotFoundError, match='there is no such file'):
        run_compare(results=[tmp_path / 'gone.json'], out=tmp_path / 'other')


def test_results_of_several_folders_become_one_report(case, tmp_path):
    """A head that was run later, elsewhere, beside the results that are there already."""
    plain, certified, out = case
    other, more, again = tmp_path / 'other.py', tmp_path / 'more', tmp_path / 'again'
    other.write_text(certified.read_text().replace('./tiny.py', str(plain)))
    assert run_compare(other, out=more) == 0
    assert run_compare(results=[out / 'results.json', more / 'results.json'], out=again, margin=0.5) == 0 and not STEPS
    found = read(again)
    baseline = found['baseline']
    assert [head['label'] for head in found['heads']] == ['tiny', 'certified', 'other'] and found['margin'] == 0.5
    late = found['heads'][2]
    assert late['miou'] == read(more)['heads'][0]['miou'] and late['speed'] == {} and late['seconds_per_iteration'] > 0
    theirs = next(head for head in found['heads'] if head['name'] == baseline)
    assert late['difference']['per_seed'] == {'0': pytest.approx(late['miou'] - theirs['miou'], abs=1e-5)}
    assert found['protocol']['apart'] == {} and found['protocol']['unpaired'] == []
    with pytest.raises(ValueError, match='margin is 0, but must be above 0'):
        run_compare(results=[out / 'results.json', more / 'results.json'], out=again, margin=0, overwrite=True)


def test_refusals(case, tmp_path):
    plain, certified, out = case

    def refused(match, *configs, error=ValueError, **arguments):
        with pytest.raises(error, match=match):
            run_compare(*(configs or (plain, certified)), **dict(out=out, resume=True) | arguments)

    refused('the seed 1 is given twice', seeds=[1, 0, 1])
    refused('every seed must be 0 or larger', seeds=[-1])
    refused('the config tiny is given twice', plain, certified, plain)
    refused('there is no such config', 'gone.py', error=FileNotFoundError)
    refused('--baseline other.py is not one of the configs', baseline='other.py')
    refused('--control other.py is not one of the configs', control='other.py')
    refused('--margin 0.5 needs an interval, and so at least two seeds', margin=0.5)
    refused('--margin is -1.0, but must be above 0', margin=-1.0, seeds=[0, 1])
    refused('--processes 2 is for distributed training', processes=2)
    refused('--jobs is 0, but must be at least 1', jobs=0)
    refused('--jobs 2 with --launcher pytorch', jobs=2, launcher='pytorch')
    refused('holds another comparison, with the config certified', plain)
    refused('holds another comparison, with certified, seed_0', seeds=[1])
    refused('the --cfg-options or the checkpoint of certified, seed_0 were different', cfg_options={})
    refused('tiny.py has no attention in model.decode_head', cfg_options={'model.decode_head.attention.sharpness': 3.0})
    refused(
        'train_dataloader.dataset.pipeline is a list of 7', cfg_options={'train_dataloader.dataset.pipeline.9.prob': 1}
    )
    refused('is a file', out=plain, error=NotADirectoryError)
    foreign = tmp_path / 'foreign'
    shutil.copytree(out, foreign)
    (foreign / 'thesis.txt').write_text('precious')
    refused('holds thesis.txt, which is not part of a comparison', out=foreign)
    lost = plain.with_name('lost.py')
    lost.write_text("_base_ = './tiny.py'\nval_dataloader = dict(dataset=dict(data_root='nowhere'))\n")
    refused('nowhere/images', lost, out=tmp_path / 'new', error=FileNotFoundError)
    assert not (tmp_path / 'new').exists() and STEPS == []


@pytest.mark.slow
def test_in_processes_of_their_own(case, tmp_path):
    """As users run it, the training distributed over two processes."""
    command = [
        sys.executable,
        ROOT / 'tools' / 'compare.py',
        case[1],
        '--out',
        tmp_path,
        '--launcher',
        'pytorch',
        '--processes',
        '2',
    ]
    found = subprocess.run(command, env=tool_environment(), cwd=tmp_path.parent, text=True, capture_output=True)
    assert found.returncode == 0, found.stdout + found.stderr
    assert '[1/1] certified, seed 0: Iter(train) [6/6]' in found.stdout and 'done, mIoU' in found.stdout
    (head,) = read(tmp_path)['heads']
    assert head['training_bytes'] > 2**26 and 0.8 < head['bound'] <= 0.9
    assert 'GPU number: 2' in next(tmp_path.glob('*/*/2*/*.log')).read_text()


def test_command_line(case):
    """The tool hands its arguments on."""
    tool = importlib.import_module('mmseg_invattn.cli.compare')
    line = ['compare', 'a.py', 'b.py', '--seeds', '3', '4', '--out', 'there', '--cfg-options', 'train_cfg.max_iters=5']
    with mock.patch.object(sys, 'argv', line), mock.patch.object(course, 'compare', return_value=1) as handed:
        assert tool.main() == 1
    (args,) = handed.call_args.args
    assert (args.configs, args.seeds, args.out) == (['a.py', 'b.py'], [3, 4], Path('there'))
    assert args.cfg_options == {'train_cfg.max_iters': 5}


@pytest.mark.parametrize('line', [[], ['a.py', '--results', 'x.json'], ['--results', 'x.json', '--margin', '1']])
def test_command_lines_that_are_refused(line, capsys):
    tool = importlib.import_module('mmseg_invattn.cli.compare')
    with pytest.raises(SystemExit):
        tool.parse_args(line)
    assert '--results' in capsys.readouterr().err


def test_a_margin_for_results_of_several_files(capsys):
    tool = importlib.import_module('mmseg_invattn.cli.compare')
    args = tool.parse_args(['--results', 'x.json', 'y.json', '--margin', '0.5'])
    assert (args.results, args.margin) == ([Path('x.json'), Path('y.json')], 0.5)
    with pytest.raises(SystemExit):
        tool.parse_args(['--results', 'x.json', 'y.json', '--seeds', '1'])
    assert 'with several files also with --margin' in capsys.readouterr().err
