"""Steps of two processes under DDP, without ``find_unused_parameters``, equal those of one with the whole batch."""

import pytest
import torch
from helpers import ddp_steps
from helpers.ddp_steps import CASES, run_case
from helpers.two_processes import in_two_processes
from mmengine.registry import init_default_scope


@pytest.fixture(scope='module')
def two_processes(tmp_path_factory):
    """Weights by case, as rank 0 has them after its steps."""
    out = tmp_path_factory.mktemp('ddp') / 'weights.pth'
    init_default_scope('mmseg')
    in_two_processes(ddp_steps.work, str(out))
    return torch.load(out, weights_only=True)


@pytest.mark.parametrize('case', CASES)
def test_two_processes_step_like_one(case, two_processes):
    init_default_scope('mmseg')
    one, two = run_case(case), two_processes[case]
    assert one.keys() == two.keys()
    # MMSegmentation's loss is the sum over (pixels + 1.2e-7), which is not the mean of the losses of the parts; the
    # steps differ by as much
    # and bfloat16 rounds sums over a batch
    tol = 2e-2 if case == 'autocast' else 1e-8
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, two[name], rtol=tol, atol=tol, msg=lambda m, name=name: f'{name}: {m}')
