"""The parts of a comparison on their own: summary, times, processes, folders, attention, configs."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.checkout import ROOT
from helpers.comparison_case import made_up_runs, made_up_speed
from mmcv.cnn import NonLocal2d
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.models.decode_heads.da_head import CAM, PAM
from mmseg.registry import MODELS

from mmseg_invattn.engine.folder_lock import locked
from mmseg_invattn.engine.scalars import read_entries
from mmseg_invattn.experiments.compare.attention import attention_share, blocks_of, measure_attention
from mmseg_invattn.experiments.compare.columns import significant
from mmseg_invattn.experiments.compare.folder import write_json
from mmseg_invattn.experiments.compare.pictures import _apart, _score
from mmseg_invattn.experiments.compare.process import ProcessFailedError, run_process
from mmseg_invattn.experiments.compare.report import markdown
from mmseg_invattn.experiments.compare.speed import interleave
from mmseg_invattn.experiments.compare.summary import label_of, summarise
from mmseg_invattn.experiments.compare.verdicts import IDENTITY
from mmseg_invattn.layers import FORMS, CertifiedAttention2d, InvRelativeAttention2d

# ------------------------------------------------------------------------------------------------------------- summary


def test_summary_of_seeds_heads_and_a_failure(tmp_path):
    runs = made_up_runs(tmp_path, heads=3, seeds=(0, 1, 2))
    results = summarise(runs, runs[0].name, None, made_up_speed(runs))
    plain, certified, ordinary = results['heads']
    assert [head['label'] for head in results['heads']] == ['fcn', 'head1', 'head2']
    of_seeds = [run['miou'] for run in certified['runs']]
    assert certified['miou'] == pytest.approx(np.mean(of_seeds))
    assert certified['miou_std'] == pytest.approx(np.std(of_seeds, ddof=1))
    assert [run['status'] for run in ordinary['runs']] == ['done', 'done', 'failed']
    assert sorted(ordinary['difference']['per_seed']) == ['0', '1']  # pairs only
    assert (certified['bound'], certified['local_lipschitz'], certified['inverse_error']) == (0.9, 0.4, 3e-7)
    assert (ordinary['bound'], ordinary['local_lipschitz'], ordinary['inverse_error']) == (None, 12.0, None)
    assert certified['seconds_per_iteration'] == pytest.approx(0.2)
    assert certified['training_bytes'] == 2**30
    assert plain['runs'][0]['curves']['miou']['steps'][0] == 20  # the line cut short did no harm
    assert (plain['kind'], certified['kind'], ordinary['kind']) == ('none', 'invertible', 'ordinary')
    assert plain['share'] is None and certified['share'] == pytest.approx(0.3) and certified['identity_seeds'] == []
    json.dumps(results, allow_nan=False)
    rows = [line for line in markdown(results).splitlines() if line.startswith('| fcn ')]
    assert rows[2] == '| fcn | - | - | - | - | - | - | - |'


def test_a_long_curve_is_kept_as_means(tmp_path):
    (run,) = made_up_runs(tmp_path, heads=1, seeds=(0,), iterations=1000)
    entries = list(read_entries(run.folder.glob('*/vis_data/scalars.json')))
    loss = summarise([run], run.name, None, None)['heads'][0]['runs'][0]['curves']['loss']
    assert len(loss['steps']) == len(loss['values']) == 60 and loss['steps'] == sorted(loss['steps'])
    first = [entry for entry in entries if 'loss' in entry][:9]  # 500 points in 60 parts
    assert loss['values'][0] == pytest.approx(np.mean([entry['loss'] for entry in first]), rel=1e-4)
    assert loss['steps'][0] == np.mean([entry['step'] for entry in first])


def test_heads_on_different_images_are_refused(tmp_path):
    runs = made_up_runs(tmp_path, heads=2, seeds=(0,))
    path = runs[1].folder / 'evaluation.json'
    content = json.loads(path.read_text())
    content['images'][3] = '/elsewhere/3.png'  # the same name in another folder is the same image
    write_json(path, content)
    summarise(runs, runs[0].name, None, None)
    content['images'][3] = '/data/4.png'
    write_json(path, content)
    with pytest.raises(ValueError, match='fcn.*seed 0 and head1.*seed 0 were evaluated on different images'):
        summarise(runs, runs[0].name, None, None)


def test_names():
    assert label_of('fcn_r18_data', ['fcn_r18_data', 'da_r18_data']) == 'fcn'
    assert label_of('fcn_r18_data', ['fcn_r18_data', 'fcn_r50_data']) == 'fcn_r18_data'
    assert label_of('my_data', ['plain', 'my_data', 'no_attention']) == 'my_data'  # no name of this kind


@pytest.mark.parametrize(
    'value, text',
    [
        (0.1, '0.100'),
        (0.12345, '0.123'),
        (12.345, '12.3'),
        (123.4, '123'),
        (12345.6, '12,346'),
        (1e-7, '1.0e-07'),
        (1e6, '1.0e+06'),
        (0, '0.00'),
    ],
)
def test_digits(value, text):
    assert significant(value) == text


def test_images_that_the_heads_disagree_on_score_high():
    label = np.array([[0, 1, 2, 255]])
    right, wrong = label.copy(), np.array([[1, 2, 0, 0]])
    assert _score(label, [right, right], 255) == _score(label, [wrong, wrong], 255) == 0
    assert _score(label, [right, wrong], 255) == 1
    assert _score(label, [right, np.array([[0, 1, 0, 0]])], 255) == pytest.approx(1 / 3)


def test_pictures_are_not_neighbours_in_a_video():
    scored = [(0.9, 10), (0.8, 11), (0.7, 13), (0.6, 40), (0.0, 60)]
    assert _apart(scored, 2) == [(0.9, 10), (0.7, 13), (0.6, 40)] and _apart(scored, 0) == scored[:4]


# ----------------------------------------------------------------------------------------------- processes and folders


def test_process_reports_progress_and_memory(tmp_path):
    lines = [
        'x - mmengine - INFO - Iter(train) [ 50/100]  lr: 1.0e-02  loss: 0.5',
        'Iter(val) [4/4]    aAcc: 50.0  mIoU: 12.5  mAcc: 1.0  certificate/a: 3',
        'Iter(val) [2/4] eta: 0',
        'other',
    ]
    heard = []
    memory = run_process([sys.executable, '-c', f'print({chr(10).join(lines)!r})'], tmp_path / 'log', heard.append)
    assert heard == ['Iter(train) [ 50/100] lr: 1.0e-02 loss: 0.5', 'Iter(val) [4/4] aAcc: 50.0 mIoU: 12.5']
    assert (tmp_path / 'log').read_text().splitlines() == lines and 2**20 < memory < 2**36


def test_process_that_fails(tmp_path):
    with pytest.raises(ProcessFailedError, match='exit status 3') as crash:
        run_process([sys.executable, '-c', "print('one', flush=True); raise SystemExit(3)"], tmp_path / 'log', print)
    assert crash.value.tail == ['one']
    kill = 'import os, signal; os.kill(os.getpid(), signal.SIGKILL)'
    with pytest.raises(ProcessFailedError, match='killed by SIGKILL .perhaps for lack of memory'):
        run_process([sys.executable, '-c', kill], tmp_path / 'log', print)


def test_an_interrupt_ends_the_process_and_its_children(tmp_path):
    child = 'import os, time; print("Iter(train)", os.getpid(), flush=True); time.sleep(60)'
    parent = f'import subprocess, sys; subprocess.run([sys.executable, "-c", {child!r}])'
    found = []

    def interrupt(line):
        found.append(int(line.split()[1]))
        raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_process([sys.executable, '-c', parent], tmp_path / 'log', interrupt)
    for _ in range(100):
        try:
            os.kill(found[0], 0)
        except ProcessLookupError:
            break
        if (Path('/proc') / str(found[0]) / 'stat').read_text().split()[2] == 'Z':  # nobody collects it in a container
            break
        time.sleep(0.1)
    else:
        os.kill(found[0], signal.SIGKILL)
        pytest.fail('the child of the interrupted process lives')
    assert time.monotonic() - start < 30


def test_two_comparisons_do_not_share_a_folder(tmp_path):
    """Nor does a second one begin while a training that lost its parent still writes there."""
    with locked(tmp_path), pytest.raises(ValueError, match='is in use by'), locked(tmp_path):
        pass
    with locked(tmp_path) as lock:
        inherited = os.dup(lock)
    with pytest.raises(ValueError, match='is in use by'), locked(tmp_path):
        pass
    os.close(inherited)
    with locked(tmp_path):
        pass


def test_steps_take_turns():
    order = []
    times = interleave({name: lambda name=name: order.append(name) for name in 'abc'}, lambda: None, rounds=3)
    assert order == list('abcbcacab') and {name: len(found) for name, found in times.items()} == dict(a=3, b=3, c=3)
    times = interleave({'a': lambda: time.sleep(0.02)}, lambda: None, rounds=50, least=2, budget=0.01)
    assert len(times['a']) == 2 and min(times['a']) >= 0.02


# ----------------------------------------------------------------------------------------------------------- attention


class Looks(torch.nn.Module):
    """Something with a test_step that shows its block a feature map."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def test_step(self, features):
        return self.block(features)


@pytest.mark.parametrize('build', [lambda: NonLocal2d(8, norm_cfg=None, zeros_init=False), lambda: PAM(8, 4), CAM])
def test_ordinary_attention_is_measured(build):
    """The local constant equals the norm of the Jacobian, at a size at which that can be computed."""
    torch.manual_seed(0)
    block = build().double().eval()
    if hasattr(block, 'gamma'):
        torch.nn.init.constant_(block.gamma.scale, 0.7)
    x = torch.randn(1, 8, 3, 4, dtype=torch.float64)
    found = measure_attention(Looks(block), [x])['block']
    assert (found['bound'], found['saturation'], found['tokens']) == (None, None, 12)
    # row of blocks J_ij of the Jacobian of y - x -> largest of sum_j |J_ij|_2, an upper bound of |J|_inf2
    jacobian = torch.autograd.functional.jacobian(lambda x: block(x) - x, x).reshape(8, 12, 8, 12)
    if not isinstance(block, CAM):  # the pixels are the tokens
        jacobian = jacobian.permute(1, 0, 3, 2)
    rows = torch.linalg.matrix_norm(jacobian.permute(0, 2, 1, 3), 2).sum(1)
    assert 0.5 * rows.max() < found['local_lipschitz'] <= rows.max() * (1 + 1e-9)
    moved = (block(x) - x).norm(dim=1) / x.norm(dim=1)
    assert found['share'] == pytest.approx(moved.flatten().median().item()) and not found['invertible']


def test_certified_attention_is_measured():
    block = CertifiedAttention2d(8, sharpness=1.0)
    found = measure_attention(Looks(block), [torch.randn(1, 8, 40, 6), torch.randn(1, 8, 40, 6)])['block']
    assert found['tokens'] == 240 and 0 < found['local_lipschitz'] <= found['bound'] == block.lipschitz_bound()
    assert 0 <= found['saturation'] <= 1


def test_position_only_attention_is_measured():
    block = InvRelativeAttention2d(8, num_heads=3)
    found = measure_attention(Looks(block), [torch.randn(1, 8, 9, 6)])['block']
    assert found['tokens'] == 54 and found['saturation'] is None
    assert 0 < found['local_lipschitz'] <= found['bound'] == block.lipschitz_bound()


def silenced(block):
    """The same block with an attention that adds nothing."""
    for name, parameter in block.named_parameters():
        if {'out', 'bias'} & set(name.split('.')) or name == 'weight.weight':
            torch.nn.init.zeros_(parameter)
    return block


@pytest.mark.parametrize('form', ['certified', 'conditional', 'coupling', 'none'])
@pytest.mark.parametrize('heads', [1, 2])
def test_the_share_of_an_attention_that_adds_nothing_is_zero(form, heads):
    """The share does not count what the block does besides attention: a rotation, or a swap of halves."""
    torch.manual_seed(0)
    x = torch.randn(2, 8, 4, 5)
    block = FORMS[form](8, num_heads=heads).eval()
    if form == 'none':
        torch.nn.init.normal_(block.branch.out.weight)  # mmcv starts it at zero
    assert attention_share(block, x).median() > 2 * IDENTITY
    assert attention_share(silenced(block), x).max() < IDENTITY / 10


# ------------------------------------------------------------------------------------------------------------- configs


def test_fcn_is_the_identity_control_of_the_non_local_heads():
    """The same weights under the same recipe, but for those of the attention."""
    init_default_scope('mmseg')
    built = {}
    for name in ('fcn', 'nonlocal', 'invnl'):
        cfg = Config.fromfile(ROOT / 'configs' / name / f'{name}_r18-d8_1xb8-20k_camvid-360x480.py')
        with torch.device('meta'):
            head = MODELS.build(cfg.model.pop('decode_head'))
        built[name] = (
            {
                key: value.shape
                for key, value in head.state_dict().items()
                if not key.startswith(('nl_block.', 'attention.'))
            },
            cfg.to_dict(),
        )
    assert built['fcn'] == built['nonlocal'] == built['invnl']


def test_every_head_of_the_comparison_has_a_config():
    folder = ROOT / 'configs' / 'invnl'
    found = {path.stem.split('_')[0] for path in folder.glob('*_r18-d8_1xb8-20k_camvid-360x480.py')}
    assert found == {
        'invnl',
        *(
            f'invnl-{name}'
            for name in (
                'gaussian',
                'dot-product',
                'concatenation',
                'l2',
                'position',
                'pooled',
                'stack3',
                'conditional',
                'coupling',
            )
        ),
    }
    stack = Config.fromfile(folder / 'invnl-stack3_r18-d8_1xb8-20k_camvid-360x480.py').model.decode_head
    init_default_scope('mmseg')
    with torch.device('meta'):
        assert len(blocks_of(MODELS.build(stack))) == 3
