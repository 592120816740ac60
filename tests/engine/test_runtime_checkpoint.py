import io
import os
import pickle
from collections import OrderedDict, defaultdict
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from helpers.runtime_case import run_tool, write_case
from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import CheckpointLoader
from mmseg.registry import HOOKS

from mmseg_invattn.engine import atomic_backend
from mmseg_invattn.engine.atomic_backend import AtomicLocalBackend
from mmseg_invattn.engine.checkpoints import (
    DamagedCheckpointError,
    UnsafeCheckpointError,
    read_checkpoint,
    use_safe_checkpoint_loading,
)
from mmseg_invattn.engine.inference import init_model
from mmseg_invattn.engine.plain_state import plain_message_hub, restore_message_hub, to_plain


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return os.mkdir, (self.trace,)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Config and work directory of a short run that keeps 2 checkpoints and the best one."""
    folder = tmp_path_factory.mktemp('trained')
    config = write_case(folder)
    run_tool(
        'train',
        config,
        '--work-dir',
        folder / 'work',
        options=(
            'train_cfg.val_interval=1',
            'default_hooks.checkpoint.interval=1',
            'default_hooks.checkpoint.max_keep_ckpts=2',
            '+default_hooks.checkpoint.save_best=mIoU',
            'train_cfg.max_iters=4',
            'val_dataloader.dataset.indices=1',
        ),
    )
    return config, folder / 'work'


# ---------------------------------------------------------------------------------------------- what is written


def test_checkpoints_load_with_weights_only(trained):
    assert sorted(path.name for path in trained[1].glob('iter_*.pth')) == ['iter_3.pth', 'iter_4.pth']
    checkpoint = torch.load(trained[1] / 'iter_4.pth', weights_only=True)
    assert {'meta', 'state_dict', 'message_hub', 'optimizer', 'param_schedulers'} <= set(checkpoint)
    assert checkpoint['optimizer']['state'][0]['exp_avg'].abs().sum() > 0
    assert checkpoint['message_hub']['runtime_info']['keep_ckpt_ids'][-2:] == [3, 4]
    assert checkpoint['state_dict']._metadata['backbone']['version'] == 1
    assert checkpoint['meta']['seed'] == 0 and checkpoint['meta']['dataset_meta']['classes'] == ('a', 'b', 'c')
    assert len(list(trained[1].glob('best_mIoU_*.pth'))) == 1
    assert (trained[1] / 'iter_4.pth').stat().st_mode & 0o777 == 0o666 & ~umask()


def umask():
    old = os.umask(0)
    os.umask(old)
    return old


def test_everything_a_checkpoint_may_hold_becomes_plain():
    state = OrderedDict(weight=torch.ones(2))
    state._metadata = OrderedDict({'': dict(version=1)})
    value = dict(
        state=state,
        a=np.float64(2.5),
        b=np.arange(3),
        c=(np.int64(1), [np.bool_(True)]),
        d=Path('x'),
        e=defaultdict(list, k=[1]),
        f={np.int64(3): None},
        g=torch.Size([2]),
        h=np.str_('s'),
    )
    plain = to_plain(value, 'checkpoint')
    file = io.BytesIO()
    torch.save(plain, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert loaded['state']._metadata == state._metadata and torch.equal(loaded['state']['weight'], torch.ones(2))
    assert torch.equal(loaded['b'], torch.arange(3)) and loaded['c'] == (1, [True]) and loaded['e'] == dict(k=[1])
    assert (loaded['a'], loaded['d'], loaded['f'], loaded['g'], loaded['h']) == (2.5, 'x', {3: None}, (2,), 's')
    assert type(loaded['c'][0]) is int and type(loaded['c'][1][0]) is bool and type(loaded['e']) is dict


def test_what_has_no_plain_form_is_named():
    with pytest.raises(TypeError, match=r"checkpoint\['ema'\]\[1\]\['x'\] is a builtins\.object"):
        to_plain([0, dict(x=object())], "checkpoint['ema']")


def test_message_hub_survives_the_plain_form():
    hub = MessageHub('plain')
    for step in range(5):
        hub.update_scalar('loss', 0.1 * step, count=2)
    hub.update_info('best', np.float32(0.5))
    hub.update_info('handle', object())
    plain, left_out = plain_message_hub(hub.state_dict())
    assert left_out == ['handle']
    file = io.BytesIO()
    torch.save(plain, file)
    file.seek(0)
    again = MessageHub('again')
    again.load_state_dict(restore_message_hub(torch.load(file, weights_only=True)))
    assert isinstance(again.get_scalar('loss'), HistoryBuffer)
    for one, other in zip(again.get_scalar('loss').data, hub.get_scalar('loss').data, strict=True):
        assert one.dtype == other.dtype and (one == other).all()
    again.update_scalar('loss', 1.0)
    assert again.get_scalar('loss').max() == 1.0 and again.get_info('best') == 0.5
    assert again.state_dict()['resumed_keys'] == dict(loss=True, best=True)


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    backend, path = AtomicLocalBackend(), tmp_path / 'deep' / 'iter_1.pth'
    backend.put(b'old', path)

    def fail(file, obj):
        file.write(obj[:1])
        raise OSError('disk full')

    monkeypatch.setattr(atomic_backend, '_write', fail)
    with pytest.raises(OSError, match='disk full'):
        backend.put(b'new', path)
    assert path.read_bytes() == b'old' and os.listdir(path.parent) == ['iter_1.pth']


def make_hook(tmp_path, by_epoch=False, save_best=None, max_keep_ckpts=2, out_dir=None):
    """The hook and a stand-in for the Runner, with a record of which files exist at every save."""
    hook = HOOKS.build(
        dict(
            type='AtomicCheckpointHook',
            by_epoch=by_epoch,
            interval=1,
            save_best=save_best,
            max_keep_ckpts=max_keep_ckpts,
            out_dir=out_dir,
        )
    )
    seen = []

    def save_checkpoint(folder, filename, *args, backend_args=None, **kwargs):
        present = {path.name for path in Path(folder).glob('*.pth')}
        seen.append((filename, present, backend_args))
        (Path(folder) / filename).write_bytes(b'x')

    hub = MessageHub(f'hub{np.random.default_rng().integers(1 << 60)}')
    runner = SimpleNamespace(
        work_dir=str(tmp_path), message_hub=hub, logger=mock.Mock(), iter=0, epoch=0, save_checkpoint=save_checkpoint
    )
    return hook, runner, seen


@pytest.mark.parametrize('by_epoch', [False, True])
def test_old_checkpoints_go_only_after_the_new_one_is_there(tmp_path, by_epoch):
    hook, runner, seen = make_hook(tmp_path, by_epoch)
    hook.before_train(runner)
    for step in range(4):
        runner.iter = runner.epoch = step
        hook._save_checkpoint(runner)
    name = 'epoch' if by_epoch else 'iter'
    assert seen[3][:2] == (f'{name}_4.pth', {f'{name}_2.pth', f'{name}_3.pth'})
    assert seen[3][2] == dict(backend='atomic_local')
    assert {path.name for path in tmp_path.glob('*.pth')} == {f'{name}_3.pth', f'{name}_4.pth'}
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / f'{name}_4.pth')


def test_what_a_killed_run_did_not_get_to_delete_goes_at_the_next_start(tmp_path):
    hook, runner, _ = make_hook(tmp_path)
    hook.before_train(runner)
    with mock.patch.object(hook, '_remove'):  # killed before it deletes anything
        for runner.iter in range(3):
            hook._save_checkpoint(runner)
    (tmp_path / f'.iter_4.pth.abc{atomic_backend.SUFFIX}').write_bytes(b'half')
    resumed, again, _ = make_hook(tmp_path)
    again.message_hub.load_state_dict(runner.message_hub.state_dict())
    resumed.before_train(again)
    assert sorted(os.listdir(tmp_path)) == ['iter_2.pth', 'iter_3.pth', 'last_checkpoint']


def test_the_previous_best_goes_only_after_the_new_one_is_there(tmp_path):
    hook, runner, seen = make_hook(tmp_path, save_best='mIoU')
    hook.before_train(runner)
    for step, score in enumerate([1.0, 3.0, 2.0]):
        runner.iter = step
        hook._save_best_checkpoint(runner, dict(mIoU=score))
    assert [(name, present) for name, present, _ in seen] == [
        ('best_mIoU_iter_0.pth', set()),
        ('best_mIoU_iter_1.pth', {'best_mIoU_iter_0.pth'}),
    ]
    assert [path.name for path in tmp_path.glob('*.pth')] == ['best_mIoU_iter_1.pth']
    assert hook.best_ckpt_path == str(tmp_path / 'best_mIoU_iter_1.pth')


def test_several_best_checkpoints(tmp_path):
    hook, runner, _ = make_hook(tmp_path, save_best=['mIoU', 'aAcc'])
    hook.before_train(runner)
    for step, (first, second) in enumerate([(1.0, 1.0), (2.0, 0.0), (0.0, 2.0)]):
        runner.iter = step
        hook._save_best_checkpoint(runner, dict(mIoU=first, aAcc=second))
    assert {path.name for path in tmp_path.glob('*.pth')} == {'best_mIoU_iter_1.pth', 'best_aAcc_iter_2.pth'}


def test_remote_folders_keep_their_backend(tmp_path):
    hook, runner, _ = make_hook(tmp_path, out_dir='s3://bucket/folder')
    with mock.patch.object(CheckpointHook, 'before_train'):
        hook.before_train(runner)
    assert hook.backend_args is None and not hook._atomic


@pytest.mark.parametrize(
    'name, value, refused',
    [
        ('weight', float('nan'), True),
        ('weight', float('inf'), True),
        ('mask', float('-inf'), False),
        ('mask', float('nan'), True),
    ],
)
def test_weights_that_are_not_finite_are_not_written(name, value, refused):
    model = torch.nn.Linear(2, 2)
    model.register_buffer('mask', torch.zeros(2))
    with torch.no_grad():
        getattr(model, name).view(-1)[1] = value
    hook = HOOKS.build(dict(type='AtomicCheckpointHook'))
    checkpoint = dict(state_dict=model.state_dict(), message_hub=MessageHub('finite').state_dict())
    runner = SimpleNamespace(model=model, iter=6, logger=mock.Mock())
    if not refused:
        return hook.before_save_checkpoint(runner, checkpoint)
    with pytest.raises(FloatingPointError, match=f'{name} has 1 value .*iteration 7'):
        hook.before_save_checkpoint(runner, checkpoint)


def test_checkpoints_of_a_run_with_averaged_weights(trained, tmp_path):
    config = tmp_path / 'ema.py'
    config.write_text(f"_base_ = '{trained[0]}'\ncustom_hooks = [dict(type='EMAHook')]\n")
    run_tool('train', config, '--work-dir', tmp_path, options=('train_cfg.max_iters=2',))
    assert 'ema_state_dict' in torch.load(tmp_path / 'iter_2.pth', weights_only=True)
    assert EMAHook.priority == 'NORMAL'  # it changes the checkpoint before the checkpoint hook makes it plain


# ----------------------------------------------------------------------------------------------- what is loaded


@pytest.fixture
def bad_checkpoint(trained, tmp_path):
    """A usable checkpoint that also carries a payload, and the folder that the payload would make."""
    checkpoint = torch.load(trained[1] / 'iter_4.pth', weights_only=True)
    torch.save(dict(checkpoint, extra=Payload(tmp_path / 'trace')), tmp_path / 'bad.pth')
    return tmp_path / 'bad.pth', tmp_path / 'trace'


def test_pickles_are_refused_unless_trusted(trained, bad_checkpoint):
    path, trace = bad_checkpoint
    refusal = r'bad\.pth: refused.*posix\.mkdir.*--trust-checkpoint'
    with pytest.raises(UnsafeCheckpointError, match=refusal):
        run_tool('test', trained[0], path, '--work-dir', path.parent)
    with pytest.raises(UnsafeCheckpointError, match=refusal):
        init_model(trained[0], str(path))
    with pytest.raises(UnsafeCheckpointError, match=refusal):
        run_tool('train', trained[0], '--work-dir', path.parent, options=(f'load_from={path}',))
    assert not trace.exists()
    run_tool('test', trained[0], path, '--work-dir', path.parent, '--trust-checkpoint')
    assert trace.exists()


def test_init_model_loads_and_trusts_only_once(trained, bad_checkpoint):
    use_safe_checkpoint_loading()  # another test may have trusted
    model = init_model(trained[0], str(trained[1] / 'iter_4.pth'), device='cpu')
    weight = torch.load(trained[1] / 'iter_4.pth', weights_only=True)['state_dict']['decode_head.conv_seg.weight']
    assert torch.equal(model.decode_head.conv_seg.weight, weight) and not model.training
    assert tuple(model.dataset_meta['classes']) == ('a', 'b', 'c')
    init_model(trained[0], str(bad_checkpoint[0]), trust_checkpoint=True)
    bad_checkpoint[1].rmdir()
    with pytest.raises(UnsafeCheckpointError, match=r'use_safe_checkpoint_loading\(trust=True\)'):
        CheckpointLoader.load_checkpoint(str(bad_checkpoint[0]))
    assert not bad_checkpoint[1].exists()
    # a program that trusts its files still does after one model was loaded without trust
    use_safe_checkpoint_loading(trust=True)
    try:
        init_model(trained[0], str(trained[1] / 'iter_4.pth'), device='cpu')
        CheckpointLoader.load_checkpoint(str(bad_checkpoint[0]))
        assert bad_checkpoint[1].exists()
    finally:
        use_safe_checkpoint_loading()


@pytest.mark.parametrize(
    'address',
    [
        'http://host/bad.pth',
        'https://host/bad.pth',
        'open-mmlab://net',
        'openmmlab://net',
        'openmmlab://file',
        'mmcls://net',
        'torchvision://net',
        'modelzoo://net',
        's3://bucket/bad.pth',
        'petrel://bucket/bad.pth',
        'cluster:s3://bucket/bad.pth',
        'pavi://model',
    ],
)
def test_every_scheme_refuses_pickles(bad_checkpoint, monkeypatch, address):
    path, trace = bad_checkpoint
    stock = 'mmengine.runner.checkpoint.'
    monkeypatch.setattr('torch.hub.get_dir', lambda: str(path.parent))
    (path.parent / 'checkpoints').mkdir()
    (path.parent / 'checkpoints' / 'bad.pth').write_bytes(path.read_bytes())  # as downloaded before
    names = {'net': 'https://host/bad.pth', 'file': 'bad.pth'}
    for function in ('get_external_models', 'get_mmcls_models', 'get_torchvision_models'):
        monkeypatch.setattr(stock + function, lambda: names)
    monkeypatch.setattr(stock + '_get_mmengine_home', lambda: str(path.parent))
    remote = mock.Mock(get=lambda name: path.read_bytes())
    monkeypatch.setattr('mmengine.fileio.get_file_backend', lambda *args, **kwargs: remote)
    try:
        use_safe_checkpoint_loading()
        with pytest.raises(UnsafeCheckpointError, match='refused|cannot be loaded safely'):
            CheckpointLoader.load_checkpoint(address)
        assert not trace.exists()
        if not address.startswith('pavi'):
            use_safe_checkpoint_loading(trust=True)
            assert 'state_dict' in CheckpointLoader.load_checkpoint(address)
    finally:
        use_safe_checkpoint_loading()


@pytest.mark.parametrize(
    'contents, error, words',
    [
        (b'', DamagedCheckpointError, 'empty'),
        (bytes(2000), DamagedCheckpointError, 'not a checkpoint'),
        (b'<html>not found</html>', DamagedCheckpointError, 'not a checkpoint'),
        (b'PK\x03\x04 cut off', DamagedCheckpointError, 'truncated'),
        (pickle.dumps(dict(a=Path('x'))), UnsafeCheckpointError, 'refused'),
    ],
    ids=['empty', 'zeros', 'html', 'cut off', 'pickle'],
)
def test_files_that_are_no_checkpoints(tmp_path, contents, error, words):
    (tmp_path / 'file.pth').write_bytes(contents)
    with pytest.raises(error, match=words):
        read_checkpoint(tmp_path / 'file.pth')


def test_old_formats(tmp_path):
    path = tmp_path / 'old.pth'
    torch.save(dict(a=torch.ones(50)), path, _use_new_zipfile_serialization=False)
    assert read_checkpoint(path, mmap=True)['a'].sum() == 50
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DamagedCheckpointError, match=r'old\.pth.*truncated'):
        read_checkpoint(path)
    torch.jit.script(torch.nn.Linear(1, 1)).save(path)
    with pytest.raises(UnsafeCheckpointError, match='refused'):
        read_checkpoint(path)
    with pytest.raises(FileNotFoundError, match='gone'):
        read_checkpoint(tmp_path / 'gone.pth')
