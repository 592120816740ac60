"""A training does not mix with an earlier run in its folder: it is refused, or removes the earlier run."""

import shutil
import time

import pytest
from helpers.commands import run_command
from helpers.runtime_case import run_tool, write_case

from mmseg_invattn.engine.run_files import files_of_run, weights_of_run

BEST = '+default_hooks.checkpoint.save_best=mIoU'
SHORT = ('train_cfg.max_iters=2',)


@pytest.fixture(scope='module')
def earlier_run(tmp_path_factory):
    """Config and work directory of a run with a best checkpoint, and with files of its user."""
    folder = tmp_path_factory.mktemp('earlier')
    config, work = write_case(folder), folder / 'work'
    run_tool('train', config, '--work-dir', work, options=(BEST, 'train_cfg.max_iters=4', 'train_cfg.val_interval=2'))
    for name in ('notes.txt', 'iter_4.txt', 'mine.pth', 'plot.py', 'my_iter_2.pth'):
        (work / name).write_text('')
    return config, work


@pytest.fixture
def work(earlier_run, tmp_path):
    return shutil.copytree(earlier_run[1], tmp_path / 'work')


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_overwrite_removes_the_run_and_nothing_else(earlier_run, work):
    before = names(work)
    status = run_command('train', earlier_run[0], '--work-dir', work, '--overwrite', options=SHORT)
    after = names(work)
    starts = {name for name in after if name.startswith('20')}
    assert status == 0 and len(starts) == 1 and not starts & before
    own = {'iter_2.pth', 'last_checkpoint', 'tiny.py'}
    assert after - starts == own | {'notes.txt', 'iter_4.txt', 'mine.pth', 'plot.py', 'my_iter_2.pth'}
    assert (work / 'last_checkpoint').read_text() == str(work / 'iter_2.pth')


def test_a_run_that_starts_in_the_second_of_the_earlier_one_keeps_its_logs(earlier_run, work):
    """MMEngine names the folder of the logs after the second."""
    (old,) = (path for path in work.iterdir() if path.name.startswith('20'))
    now = time.time()
    seconds = [time.strftime('%Y%m%d_%H%M%S', time.localtime(now + ahead)) for ahead in range(4)]
    for name in seconds:  # in whichever of them the new run would start
        shutil.copytree(old, old.with_name(name), dirs_exist_ok=True)
    assert run_command('train', earlier_run[0], '--work-dir', work, '--overwrite', options=SHORT) == 0
    (new,) = (path for path in work.iterdir() if path.name.startswith('20'))
    assert new.name > seconds[-1] and list(new.glob('*.log')) and list(new.glob('vis_data/*.json'))


@pytest.mark.parametrize('left', ['iter_4.pth', 'best', 'last_checkpoint', 'iter_4-0123abcd.pth'])
def test_any_of_its_checkpoints_is_a_run(earlier_run, work, capsys, left):
    (work / 'iter_4-0123abcd.pth').write_text('')
    for path in work.iterdir():
        if path.suffix == '.pth' or path.name == 'last_checkpoint':
            path.unlink() if not path.name.startswith(left) else None
    before = names(work)
    assert run_command('train', earlier_run[0], '--work-dir', work, options=SHORT) == 2
    said = capsys.readouterr().err
    assert f'{work}/{left}' in said and 'add --overwrite' in said and '--resume' in said
    assert names(work) == before


@pytest.mark.parametrize(
    ('options', 'said'),
    [(('model.backbone.depth=19',), 'depth'), (('load_from={work}/iter_4.pth',), 'iter_4.pth, which load_from needs')],
)
def test_the_earlier_run_stays_where_the_new_one_cannot_begin(earlier_run, work, capsys, options, said):
    before = {path.name: path.stat().st_mtime_ns for path in work.glob('*.pth')}
    options = tuple(option.format(work=work) for option in options)
    assert run_command('train', earlier_run[0], '--work-dir', work, '--overwrite', options=(*SHORT, *options)) == 2
    assert said in capsys.readouterr().err
    assert {path.name: path.stat().st_mtime_ns for path in work.glob('*.pth')} == before


def test_another_place_and_name_of_checkpoints(tmp_path):
    hook = dict(out_dir=str(tmp_path / 'out'), filename_tmpl='step-{}.pt')
    (tmp_path / 'out' / 'work').mkdir(parents=True)
    for name in ('step-4.pt', 'best_mIoU_step-2.pt', 'iter_4.pth'):
        (tmp_path / 'out' / 'work' / name).write_text('')
    found = weights_of_run(tmp_path / 'work', hook)
    assert {path.name for path in found} == {'step-4.pt', 'best_mIoU_step-2.pt'}


def test_the_config_that_is_trained_stays(earlier_run, work):
    """It may lie in the work directory: MMEngine writes a copy there."""
    found = {path.name for path in files_of_run(work)}
    assert 'tiny.py' in found and 'plot.py' not in found
    assert 'tiny.py' not in {path.name for path in files_of_run(work, config=str(work / 'tiny.py'))}
