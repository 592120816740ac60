"""Training with recovered activations: its course, memory, distribution, and the cost and accuracy of the way back."""

import copy
import gc

import pytest
import torch
import torch.distributed as dist
from helpers.memory_free_cases import flow, gradients
from helpers.peak_memory import peak_bytes
from helpers.two_processes import in_two_processes
from torch import Tensor, nn

from mmseg_invattn.layers import (
    CertifiedAttention2d,
    ConditionalAttention2d,
    CouplingAttention2d,
    InvChannelAttention,
    InvConvResidual,
    InvertibleSequential,
    MemoryFree,
    OrthogonalConv1x1,
    solve,
)
from mmseg_invattn.ops import solve_fixed_point


@pytest.mark.parametrize('fused', [True, pytest.param(False, marks=pytest.mark.slow)])
def test_training_ends_where_plain_backpropagation_ends(fused):
    """30 steps, evaluations without gradients between them: the same losses to the accuracy of the inverse."""
    torch.manual_seed(16)
    start = InvertibleSequential(
        CertifiedAttention2d(6, num_heads=3, sharpness='learned'),
        OrthogonalConv1x1(6),
        ConditionalAttention2d(6, reduction=1),
        OrthogonalConv1x1(6),
        CouplingAttention2d(6, reduction=1),
    ).double()
    x = torch.randn(2, 6, 4, 4, dtype=torch.float64)
    target = x.roll(1, 3) + 0.5
    losses = []
    for module in (copy.deepcopy(start), MemoryFree(copy.deepcopy(start))):
        optimiser = torch.optim.AdamW(module.parameters(), lr=6e-3, fused=fused)
        course = []
        for step in range(30):
            optimiser.zero_grad()
            loss = (module.train()(x) - target).square().mean()
            loss.backward()
            optimiser.step()
            course.append(loss.detach())
            if step % 7 == 0:
                with torch.no_grad():
                    course.append((module.eval()(x) - target).square().mean())
        losses.append(torch.stack(course))
    assert losses[0][-1] < 0.7 * losses[0][0]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-7, atol=0)


def test_activation_memory_does_not_grow_with_depth():
    torch.manual_seed(8)
    x = torch.randn(1, 8, 64, 64)
    one, eight = (InvertibleSequential(*[InvConvResidual(8, hidden_channels=32) for _ in range(n)]) for n in (1, 8))
    for module in (one, eight):
        module(x).sum().backward()  # gradients of the parameters are allocated
    stored = [peak_bytes(module, x) for module in (one, eight)]
    recovered = [peak_bytes(MemoryFree(module), x) for module in (one, eight)]
    assert stored[1] > 4 * stored[0]
    assert recovered[1] < 1.25 * recovered[0]
    assert recovered[1] < stored[1] / 2


def _distributed_worker(rank: int, folder: str) -> None:
    dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    torch.manual_seed(rank)  # DDP broadcasts the parameters of rank 0
    model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Conv2d(3, 4, 1), MemoryFree(flow())).double())
    x = torch.randn(4, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(9)) * 3 + 1
    mine = x[:1] if rank == 0 else x[1:]  # shares of different size
    model(mine)
    for _ in range(2):
        model.zero_grad()
        sum(part.square().sum() for part in model(mine)).backward()
    torch.save(dict(state=model.module.state_dict(), grads=[p.grad for p in model.parameters()]), f'{folder}/{rank}.pt')
    # were the model the last owner of the group, its destructor would hold the GIL and wait for a thread that wants it
    del model
    gc.collect()
    dist.destroy_process_group()


def test_distributed_gradients_and_data_dependent_start(tmp_path):
    """Two processes: the start is that of the whole batch, the gradient the mean of the shares' gradients."""
    in_two_processes(_distributed_worker, str(tmp_path))
    first, second = (torch.load(tmp_path / f'{rank}.pt', weights_only=True) for rank in (0, 1))
    for name in first['state']:
        torch.testing.assert_close(first['state'][name], second['state'][name], rtol=0, atol=0)
    torch.testing.assert_close(first['grads'], second['grads'], rtol=0, atol=0)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), flow()).double()
    x = torch.randn(4, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(9)) * 3 + 1
    model(x)  # the start, from the whole batch
    for name, value in model.state_dict().items():
        name = name.replace('1.layers', '1.module.layers', 1)
        torch.testing.assert_close(first['state'][name], value, rtol=1e-9, atol=1e-9, msg=name)
    sum(part.square().sum() for part in model(x)).div(2).backward()
    for a, p in zip(first['grads'], model.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad, rtol=1e-8, atol=1e-8 * float(p.grad.abs().max()))


def evaluations_of(module: nn.Module, x: Tensor, monkeypatch) -> list[int]:
    """What the solver takes for each layer on the way back."""
    taken = []

    def counting(*args, **options):
        result = solve_fixed_point(*args, **options)
        taken.append(int(result.iterations.max()))
        return result

    monkeypatch.setattr(solve, 'solve_fixed_point', counting)
    gradients(module, x)
    monkeypatch.undo()
    return taken


@pytest.mark.parametrize('form', [CertifiedAttention2d, ConditionalAttention2d])
def test_the_way_back_begins_at_the_mean(form, monkeypatch):
    torch.manual_seed(0)
    stack = InvertibleSequential(*(form(16) for _ in range(4)))
    x = torch.randn(2, 16, 12, 12)
    stack.train()(x)
    assert max(evaluations_of(MemoryFree(stack), x, monkeypatch)) <= 4
    y = stack(x).detach()
    for layer in reversed(stack):
        without = layer.recover_input(y, 1e-6, 100)
        mean = without.mean((2, 3), keepdim=True)
        torch.testing.assert_close(layer.recover_input(y, 1e-6, 100, mean=mean), without, rtol=0, atol=1e-5)
        # a wrong one costs evaluations and nothing else
        torch.testing.assert_close(layer.recover_input(y, 1e-6, 100, mean=mean + 1), without, rtol=0, atol=1e-5)
        y = without


@pytest.mark.parametrize('form', [CertifiedAttention2d, ConditionalAttention2d, InvChannelAttention, InvConvResidual])
def test_gradients_to_the_accuracy_that_is_stated(form):
    """1e-5 of the whole gradient, also where the inverse is asked for no more than 1e-6."""
    torch.manual_seed(1)
    stack = InvertibleSequential(*(form(8) for _ in range(6))).double()
    x = torch.randn(2, 8, 9, 7, dtype=torch.float64)
    stack.train()(x)
    wanted = torch.cat([g.flatten() for g in gradients(stack, x).values()])
    got = torch.cat([g.flatten() for g in gradients(MemoryFree(stack, tol=1e-6), x).values()])
    assert 0 < (got - wanted).norm() < 1e-5 * wanted.norm()
