"""The recorded device, versions and commit of a run."""

import shutil
import subprocess

import pytest
import torch

from mmseg_invattn.experiments.compare import environment


def test_the_build_of_torch_is_named(monkeypatch):
    assert environment.environment()['versions']['torch'] == torch.__version__
    monkeypatch.setattr(torch, '__version__', '2.13.0+cu130')
    assert environment.environment()['versions']['torch'] == '2.13.0+cu130'


def test_no_commit_outside_of_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, 'ROOT', tmp_path)
    monkeypatch.setenv('GIT_CEILING_DIRECTORIES', str(tmp_path.parent))
    assert environment.commit() is None
    monkeypatch.setenv('PATH', '')  # no git either
    assert environment.commit() is None


@pytest.mark.skipif(shutil.which('git') is None, reason='there is no git')
def test_the_commit_says_whether_files_differ_from_it(tmp_path, monkeypatch):
    def git(*arguments):
        names = ('-c', 'user.name=a', '-c', 'user.email=a@example.org')
        subprocess.run(['git', *names, *arguments], cwd=tmp_path, check=True, capture_output=True)

    monkeypatch.setattr(environment, 'ROOT', tmp_path)
    git('init')
    (tmp_path / 'file').write_text('one')
    git('add', 'file')
    git('commit', '-m', 'first')
    commit = environment.commit()
    assert len(commit) == 12 and int(commit, 16)
    (tmp_path / 'file').write_text('two')
    assert environment.commit() == f'{commit}+changes'
