"""Two streams at once compute what one does, forward, backward and in the inverse. On the CPU: two threads at once."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from mmseg_invattn.layers import FORMS, InvertibleSequential, MemoryFree
from mmseg_invattn.layers.attention.modes import MODES

Job = Callable[[], list[Tensor]]
HOLD = 20_000_000  # cycles for which a stream waits first, so that the work of both is in flight together


def at_once(jobs: list[Job], device: str) -> list[list[Tensor]]:
    if device == 'cpu':
        with ThreadPoolExecutor(len(jobs)) as pool:
            return [job.result() for job in [pool.submit(job) for job in jobs]]
    here, results = torch.cuda.current_stream(), []
    streams = [torch.cuda.Stream() for _ in jobs]
    for stream in streams:
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            torch.cuda._sleep(HOLD)
    for stream, job in zip(streams, jobs, strict=True):
        with torch.cuda.stream(stream):
            results.append(job())
    torch.cuda.synchronize()
    return results


def training(layer: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.detach().requires_grad_()
    y = layer(x)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])]


def inversion(layer: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        x_hat, info = layer.inverse(layer(x))
    return [x_hat, info.error_bound]


def assert_same(ours: list[list[Tensor]], wanted: list[list[Tensor]]) -> None:
    """To rounding: the backward passes of fused kernels add up in an order of their own on a GPU."""
    for a, b in zip(sum(ours, []), sum(wanted, []), strict=True):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max().clamp(min=1e-3)


@pytest.mark.parametrize(
    'form, mode', [*(('certified', mode) for mode in MODES), ('conditional', 'l2'), ('coupling', 'dot_product')]
)
def test_two_at_once(device, form, mode):
    torch.manual_seed(0)
    layer = FORMS[form](16, mode=mode)
    inputs = [torch.randn(2, 16, 8, 9) for _ in range(2)]
    layer(inputs[0])
    layer, inputs = layer.to(device), [x.to(device) for x in inputs]
    jobs = [lambda work=work, x=x: work(layer, x) for work in (training, inversion) for x in inputs]
    alone = [job() for job in jobs]
    for pair in (jobs[:2], jobs[2:], jobs[1:3]):  # two that train, two that invert, one of each
        assert_same(at_once(pair, device), [alone[jobs.index(job)] for job in pair])
    assert (alone[2][0] - inputs[0]).abs().max() < 1e-4  # and it is an inverse


def test_two_memory_free_steps_at_once(device):
    """Each goes back on the stream that it came by."""
    torch.manual_seed(0)
    stack = InvertibleSequential(*(FORMS[form](16) for form in ('certified', 'coupling', 'conditional')))
    inputs = [torch.randn(2, 16, 8, 9) for _ in range(2)]
    stack(inputs[0])
    module, inputs = MemoryFree(stack.to(device)), [x.to(device) for x in inputs]
    jobs = [lambda x=x: training(module, x) for x in inputs]
    assert_same(at_once(jobs, device), [job() for job in jobs])
