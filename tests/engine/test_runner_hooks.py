"""The project's own hooks run beside others of a config, in their order, and can be left out."""

import pytest
from helpers.runtime_case import write_case
from mmengine.config import Config

from mmseg_invattn.engine.launch import build_runner

OWN = ['ConstantWeightsHook', 'IterationSeedHook', 'NonFiniteLossHook', 'DatasetCheckHook', 'CertificateHook']


def hooks(folder, name: str, **changes: object) -> list[str]:
    """Names of a Runner's hooks, in the order in which they are called."""
    cfg = Config.fromfile(folder / 'tiny.py')
    cfg.merge_from_dict(changes)
    cfg.work_dir, cfg.experiment_name, cfg.visualizer.name = str(folder / name), name, name
    return [type(hook).__name__ for hook in build_runner(cfg, 'training').hooks]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('hooks')
    write_case(folder)
    return folder


def test_custom_hooks_add_to_them(folder):
    found = hooks(folder, 'more', custom_hooks=[dict(type='EMAHook')])
    assert set(OWN) < set(found)
    # those of a user come after ours of the same priority, and before the logger and the checkpoint
    assert found.index('CertificateHook') < found.index('EMAHook') < found.index('LoggerHook')


def test_none_takes_one_away(folder):
    changes = {'default_hooks.certificate': None, 'default_hooks.timer': None}
    assert set(OWN) - set(hooks(folder, 'fewer', **changes)) == {'CertificateHook'}
    assert 'IterTimerHook' not in hooks(folder, 'fewer_again', **changes)
