"""Numbers derived from parameters are never stale or kept."""

import copy
import gc
import pickle

import pytest
import torch
from helpers.weight_cases import (
    BUILDERS,
    CHANGES,
    CONTRACTIONS,
    HELD,
    build,
    equal,
    features,
    fresh,
    other_state,
    pruned,
    results,
    run,
    vectors,
)
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from mmseg_invattn.layers import constant_weights


@pytest.mark.cases(24)
@pytest.mark.parametrize('change', CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize('name', BUILDERS)
def test_nothing_stale_after_a_change(name, change):
    layer = build(name)
    run(layer)
    before, moved = results(layer), False
    for changed in change(layer):
        dtype = next(changed.parameters()).dtype
        after, other = results(changed, dtype), fresh(name, changed.state_dict())
        if change is vectors:  # kernels sum in another order where a tensor begins at another place
            vector_to_parameters(parameters_to_vector(other.parameters()).detach(), other.parameters())
        assert equal(after, results(other, dtype))
        moved |= not equal(after, before)
    assert moved


def replica_of(layer: nn.Module, values: dict[str, Tensor]) -> nn.Module:
    """As ``torch.nn.parallel.replicate`` makes it, with these tensors for the parameters."""
    copies = {module: module._replicate_for_data_parallel() for module in layer.modules()}
    for path, module in layer.named_modules():
        for key, child in module._modules.items():
            if child is None:
                copies[module]._modules[key] = None
            else:
                setattr(copies[module], key, copies[child])
        for key, p in module._parameters.items():
            if p is None:
                copies[module]._parameters[key] = None
            else:
                setattr(copies[module], key, values[f'{path}.{key}' if path else key])
        for key, buffer in module._buffers.items():
            if buffer is not None:
                setattr(copies[module], key, buffer.clone())
    return copies[layer]


@pytest.mark.cases(6)
@pytest.mark.parametrize('name', BUILDERS)
def test_replicas_have_the_parameters_that_they_were_given(name):
    layer = build(name)
    run(layer)
    own = results(layer)
    for seed in (1, 2):
        state = other_state(layer, seed)
        replica = replica_of(
            layer, {name: p.clone().requires_grad_() for name, p in state.items() if p.is_floating_point()}
        )
        assert equal(results(replica), results(fresh(name, state))) and equal(results(layer), own)
        assert replica(features()).requires_grad


class Results(nn.Module):
    """All that a layer says, as one forward pass."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> list:
        return results(self.layer)


@pytest.mark.cases(6)
@pytest.mark.parametrize('name', BUILDERS)
def test_functional_call_has_the_parameters_that_it_is_given(name):
    layer = build(name)
    run(layer)
    own = results(layer)
    for seed in (1, 2):
        state = other_state(layer, seed)
        given = torch.func.functional_call(Results(layer), {f'layer.{key}': t for key, t in state.items()}, features())
        assert equal(given, results(fresh(name, state))) and equal(results(layer), own)


@pytest.mark.parametrize('name', CONTRACTIONS)
def test_another_contraction_counts_at_once(name):
    layer = build(name)
    run(layer)
    before = results(layer)
    layer.contraction = 0.4
    after = results(layer)
    assert equal(after, results(fresh(name, layer.state_dict(), contraction=0.4))) and not equal(after, before)


@pytest.mark.cases(6)
@pytest.mark.parametrize('name', BUILDERS)
def test_pruning_takes_effect(name):
    """Also after the optimiser has moved what lies behind the mask."""
    layer = build(name)
    run(layer)
    pruned(layer)
    for _ in range(2):
        state = {}
        for key, tensor in layer.state_dict().items():
            if key.endswith('_orig'):
                state[key.removesuffix('_orig')] = tensor * layer.state_dict()[key.removesuffix('orig') + 'mask']
            elif not key.endswith('_mask'):
                state[key] = tensor
        assert equal(results(layer), results(fresh(name, state)))
        for _ in range(2):  # the graph is built anew every time
            layer(features()).square().sum().backward()
        with torch.no_grad():
            for p in layer.parameters():
                p.add_(0.1)


@pytest.mark.cases(6)
@pytest.mark.parametrize('name', BUILDERS)
def test_building_on_the_meta_device(name):
    layer = build(name)
    state = other_state(layer, 1)
    with torch.device('meta'):
        empty = build(name)
    assert all(tensor.is_meta for tensor in (*empty.parameters(), *empty.buffers()))
    empty.to_empty(device='cpu').load_state_dict(state)
    assert equal(results(empty), results(fresh(name, state)))
    with torch.device('meta'):
        empty = build(name)
    empty.load_state_dict(state, assign=True)
    for p in empty.parameters():
        p.requires_grad_()
    assert equal(results(empty), results(fresh(name, state)))


@pytest.mark.cases(6)
@pytest.mark.parametrize('name', BUILDERS)
def test_nothing_is_kept(name):
    """A copy of a layer that has run is no larger than one of a layer that has not, and no tensor outlives a call."""
    layer = build(name)
    size = len(pickle.dumps(layer))
    layer.requires_grad_(False)
    results(layer), gc.collect()
    alive = sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())
    results(layer), gc.collect()
    assert sum(issubclass(type(thing), Tensor) for thing in gc.get_objects()) == alive
    layer.requires_grad_()
    run(layer)
    with constant_weights(layer):
        run(layer)
    for p in layer.parameters():
        p.grad = None
    assert len(pickle.dumps(layer)) == len(pickle.dumps(copy.deepcopy(layer))) == size
    assert not HELD
