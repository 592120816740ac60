"""What layers keep of their parameters: computed once, and never stale."""
import copy

import pytest
import torch

from mmseg_invattn.layers import InvConvResidual, InvNonLocal2d
from mmseg_invattn.layers.mixing import OrthogonalMix

BUILDERS = {
    'certified': lambda: InvNonLocal2d(8, num_heads=2),
    'conditional': lambda: InvNonLocal2d(8, form='conditional'),
    'convolutions': lambda: InvConvResidual(8),
    'mix': lambda: OrthogonalMix(8),
}


def change_in_place(layer):
    with torch.no_grad():
        for p in layer.parameters():
            p.mul_(1.7).add_(0.3)


def change_by_optimiser(layer):
    optimiser = torch.optim.SGD(layer.parameters(), lr=1.0)
    for p in layer.parameters():
        p.grad = torch.randn_like(p)
    optimiser.step()


def change_by_loading(layer):
    layer.load_state_dict({name: torch.randn_like(t) if t.is_floating_point() else t
                           for name, t in layer.state_dict().items()})


def change_data_and_say_so(layer):
    for p in layer.parameters():
        p.data.copy_(torch.randn_like(p))
    layer.eval()


@pytest.mark.parametrize('change', [change_in_place, change_by_optimiser, change_by_loading, change_data_and_say_so])
@pytest.mark.parametrize('name', BUILDERS)
def test_nothing_stale_after_a_change(name, change):
    torch.manual_seed(0)
    layer = BUILDERS[name]().eval()
    x = torch.randn(2, 8, 4, 4)
    with torch.no_grad():
        before = layer(x)
        change(layer)
        kept, bound = layer(x), getattr(layer, 'lipschitz_bound', float)()
    fresh = copy.deepcopy(layer).eval()
    with torch.no_grad():
        assert torch.equal(kept, fresh(x)) and not torch.equal(kept, before)
    assert bound == getattr(fresh, 'lipschitz_bound', float)()


@pytest.mark.parametrize('name', ['certified', 'conditional', 'convolutions'])
def test_norms_are_computed_once(name, monkeypatch):
    layer = BUILDERS[name]().eval()
    x = torch.randn(1, 8, 4, 4)
    module = type(layer.block if hasattr(layer, 'block') else layer).__module__
    calls = []
    for norm in ('gram_norm', 'spectral_norm_bound'):
        whole = getattr(__import__(module, fromlist=[norm]), norm, None)
        if whole is None:  # convolutions take their certificate from the same norms
            continue
        monkeypatch.setattr(f'{module}.{norm}', lambda *a, whole=whole: calls.append(1) or whole(*a))
    with torch.no_grad():
        y = layer(x)
        layer.inverse(y)
        once = len(calls)
        layer(x), layer.inverse(y)
    assert 0 < once == len(calls)
    layer(x)  # with gradients: they must reach the parameters, every time
    assert len(calls) > once


def test_gradients_flow_after_something_was_kept():
    layer = BUILDERS['certified']()
    x = torch.randn(1, 8, 4, 4)
    with torch.no_grad():
        layer(x)
    layer(x).square().sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


def test_inference_mode_and_compilation_leave_nothing_behind():
    layer = BUILDERS['certified']().eval()
    x = torch.randn(1, 8, 4, 4)
    with torch.inference_mode():
        inside = layer(x)
    with torch.no_grad():
        compiled = torch.compile(layer, backend='eager', fullgraph=True)(x)
        torch.testing.assert_close(compiled, inside)
    layer(x).sum().backward()
    with torch.no_grad():
        torch.testing.assert_close(layer(x), inside)
