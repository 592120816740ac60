"""Most memory that forward and backward hold at a time, by what the allocator says."""

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile


def peak_bytes(module: nn.Module, x: Tensor) -> int:
    """Largest sum of what was allocated and not freed yet, beyond what was there before."""
    if x.device.type == 'cuda':
        return _peak_of_cuda(module, x)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        module(x).sum().backward()
    events = [e for e in record.profiler.kineto_results.events() if e.name() == '[memory]']
    assert events
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def _peak_of_cuda(module: nn.Module, x: Tensor) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    module(x).sum().backward()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
