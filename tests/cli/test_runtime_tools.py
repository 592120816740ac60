import json
import os
import subprocess

import cv2
import pytest
import torch
from helpers.checkout import ROOT
from helpers.runtime_case import run_tool, write_case
from mmengine.logging import MMLogger

from mmseg_invattn import compat


@pytest.fixture(scope='module')
def case(tmp_path_factory):
    """Config and checkpoint of a short run."""
    folder = tmp_path_factory.mktemp('case')
    config = write_case(folder)
    run_tool('train', config, '--work-dir', folder / 'work', options=('train_cfg.max_iters=2',))
    checkpoint = torch.load(folder / 'work' / 'iter_2.pth', weights_only=True)
    generator = torch.Generator().manual_seed(0)
    for tensor in checkpoint['state_dict'].values():  # otherwise it would predict one class everywhere
        tensor.normal_(generator=generator)
    torch.save(checkpoint, folder / 'random.pth')
    return config, folder / 'random.pth'


def variant(case, folder, text):
    path = folder / 'variant.py'
    path.write_text(f"_base_ = '{case[0]}'\n{text}\n")
    return path


def metrics(work_dir):
    (path,) = work_dir.glob('*/*.json')
    return json.loads(path.read_text())


def test_evaluation_predictions_and_pictures(case, tmp_path):
    run_tool('test', *case, '--work-dir', tmp_path / 'work', '--out', tmp_path / 'out', '--show-dir', tmp_path / 'show')
    assert 0 <= metrics(tmp_path / 'work')['mIoU'] <= 100
    predictions = [cv2.imread(str(tmp_path / 'out' / f'{i}.png'), cv2.IMREAD_UNCHANGED) for i in range(4)]
    assert all(image.shape == (28, 28) and image.max() < 3 for image in predictions)
    assert len(list((tmp_path / 'show').rglob('*.png'))) == 4


def test_test_time_augmentation(case, tmp_path):
    run_tool('test', *case, '--work-dir', tmp_path / 'tta', '--tta')
    run_tool('test', *case, '--work-dir', tmp_path / 'plain')
    one, other = metrics(tmp_path / 'tta'), metrics(tmp_path / 'plain')
    assert one['aAcc'] != other['aAcc'] and 0 <= one['mIoU'] <= 100


def test_out_with_several_evaluators(case, tmp_path):
    config = variant(
        case,
        tmp_path,
        "test_evaluator = [dict(type='IoUMetric', iou_metrics=['mIoU']), "
        "dict(type='IoUMetric', iou_metrics=['mDice'], prefix='second')]",
    )
    run_tool('test', config, case[1], '--work-dir', tmp_path / 'work', '--out', tmp_path / 'out')
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['0_IoUMetric', '1_IoUMetric']
    assert {'mIoU', 'second/mDice'} <= set(metrics(tmp_path / 'work'))
    names = [sorted(os.listdir(folder)) for folder in (tmp_path / 'out').iterdir()]
    assert names[0] == names[1] == [f'{i}.png' for i in range(4)]


def test_what_cannot_be_done_is_said(case, tmp_path):
    no_tta = variant(case, tmp_path, 'tta_pipeline = None')
    with pytest.raises(ValueError, match='--tta needs a tta_pipeline'):
        run_tool('test', no_tta, case[1], '--work-dir', tmp_path, '--tta')
    no_writer = variant(
        case, tmp_path, f"test_evaluator = dict(_delete_=True, type='DumpResults', out_file_path='{tmp_path}/x.pkl')"
    )
    with pytest.raises(ValueError, match='--out: no evaluator.*DumpResults'):
        run_tool('test', no_writer, case[1], '--work-dir', tmp_path, '--out', tmp_path / 'out')
    no_hook = variant(case, tmp_path, 'default_hooks = dict(visualization=None)')
    with pytest.raises(ValueError, match='--show-dir need.*SegVisualizationHook'):
        run_tool('test', no_hook, case[1], '--work-dir', tmp_path, '--show-dir', tmp_path / 'show')
    with pytest.raises(ValueError, match='auto_scale_lr=dict'):
        run_tool('train', case[0], '--work-dir', tmp_path, '--auto-scale-lr')
    with pytest.raises(FileNotFoundError, match='gone.py: there is no such config'):
        run_tool('train', tmp_path / 'gone.py')
    with pytest.raises(FileNotFoundError, match='gone.pth: there is no such checkpoint'):
        run_tool('test', case[0], tmp_path / 'gone.pth')
    with pytest.raises(FileNotFoundError, match='nowhere'):
        run_tool('train', case[0], '--work-dir', tmp_path, options=('train_dataloader.dataset.data_root=nowhere',))


@pytest.mark.skipif(compat.mixed_precision_available(), reason='the error is about machines without a GPU')
def test_mixed_precision_without_a_gpu(case, tmp_path):
    with pytest.raises(ValueError, match='needs a GPU'):
        run_tool('train', case[0], '--work-dir', tmp_path, '--amp')
    with pytest.raises(ValueError, match="'ApexOptimWrapper'"):
        run_tool('train', case[0], '--work-dir', tmp_path, '--amp', options=('optim_wrapper.type=ApexOptimWrapper',))


def test_learning_rate_scaling(case, tmp_path):
    run_tool(
        'train',
        case[0],
        '--work-dir',
        tmp_path,
        '--auto-scale-lr',
        options=('auto_scale_lr.base_batch_size=4', 'train_cfg.max_iters=1'),
    )
    state = torch.load(tmp_path / 'iter_1.pth', weights_only=True)['optimizer']
    assert state['param_groups'][0]['initial_lr'] == pytest.approx(1e-2 * 2 / 4)


def test_non_finite_loss_stops_and_keeps_the_last_good_checkpoint(case, tmp_path):
    # the learning rate ruins the weights in iteration 3; iteration 4 has the first loss that shows it
    config = variant(
        case,
        tmp_path,
        "optim_wrapper = dict(optimizer=dict(_delete_=True, type='SGD', lr=1e32))\n"
        "param_scheduler = [dict(type='ConstantLR', factor=1e-35, begin=0, end=2, "
        'by_epoch=False)]\n'
        'default_hooks = dict(checkpoint=dict(interval=1))',
    )
    with pytest.raises(FloatingPointError, match=r'iteration \d.*decode\.loss_ce=(nan|inf).*images/\d\.png.*--resume'):
        run_tool('train', config, '--work-dir', tmp_path)
    last = torch.load((tmp_path / 'last_checkpoint').read_text(), weights_only=True)
    assert all(torch.isfinite(tensor).all() for tensor in last['state_dict'].values())


def test_sync_bn_becomes_bn_on_cpu_processes(monkeypatch):
    from mmengine.config import Config

    cfg = Config(
        dict(
            model=dict(
                backbone=dict(norm_cfg=dict(type='SyncBN', requires_grad=True)),
                decode_head=[dict(norm_cfg=dict(type='SyncBN')), dict(norm_cfg=dict(type='GN'))],
            ),
            sync_bn='torch',
            find_unused_parameters=True,
        )
    )
    MMLogger.get_current_instance()  # a new one would wait for processes that do not exist
    monkeypatch.setattr('mmengine.device.get_device', lambda: 'cpu')
    monkeypatch.setattr('torch.distributed.is_initialized', lambda: True)
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT'):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(
        RuntimeError, match='--launcher pytorch: RANK, WORLD_SIZE, LOCAL_RANK missing in the environment'
    ):
        compat.prepare_distributed(cfg, 'pytorch')
    for name, value in dict(SLURM_PROCID='3', SLURM_NTASKS='4', SLURM_LOCALID='1', MASTER_ADDR='node').items():
        monkeypatch.setenv(name, value)
    compat.prepare_distributed(cfg, 'slurm')
    ranks = [os.environ[name] for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_PORT')]
    assert ranks == ['3', '4', '1', '29500']
    assert cfg.model.backbone.norm_cfg.type == cfg.model.decode_head[0].norm_cfg.type == 'BN'
    assert cfg.model.decode_head[1].norm_cfg.type == 'GN' and cfg.sync_bn is None
    assert cfg.model_wrapper_cfg == dict(
        type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False, find_unused_parameters=True
    )


def test_missing_ops_say_so_when_called():
    if not compat.provide_mmcv_ops_stub():
        pytest.skip('this mmcv has its ops')
    from mmcv.ops import roi_align

    with pytest.raises(RuntimeError, match='roi_align_forward needs compiled code'):
        roi_align(torch.zeros(1, 1, 4, 4), torch.tensor([[0.0, 0.0, 0.0, 2.0, 2.0]]), (2, 2))


@pytest.mark.parametrize(
    'script, given, more',
    [('slurm_train.sh', ['a b.py'], ['--work-dir', 'd e']), ('slurm_test.sh', ['a b.py', 'c.pth'], ['--out', 'd e'])],
)
def test_slurm_scripts_keep_their_arguments_whole(tmp_path, script, given, more):
    srun = tmp_path / 'srun'
    srun.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    environment = dict(os.environ, PATH=f'{tmp_path}:{os.environ["PATH"]}', SRUN_ARGS='--qos high', GPUS='8')
    done = subprocess.run(
        [ROOT / 'tools' / script, 'part', 'job', *given, *more],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    words = done.stdout.splitlines()
    assert words[:3] == ['-p', 'part', '--job-name=job'] and '--ntasks=8' in words
    assert words[words.index('--qos') + 1] == 'high'
    assert words[words.index('a b.py') :] == [*given, '--launcher=slurm', *more]
    usage = subprocess.run([ROOT / 'tools' / script, 'part'], capture_output=True, text=True)
    assert usage.returncode == 2 and 'usage:' in usage.stderr
