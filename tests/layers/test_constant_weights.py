"""Inside ``constant_weights`` numbers are derived from the parameters once; a change of the parameters is an error."""

import copy
import sys

import pytest
import torch
from helpers.weight_cases import (
    BUILDERS,
    HELD,
    build,
    equal,
    features,
    fresh,
    fused_optimiser,
    other_state,
    pruned,
    results,
    sequence,
    vectors,
)
from torch import Tensor, nn

from mmseg_invattn.layers import (
    CertifiedAttention2d,
    InvConvResidual,
    InvertibleSequential,
    MemoryFree,
    OrthogonalConv1x1,
    constant_weights,
)
from mmseg_invattn.layers.contract import outputs

NORMS = 'gram_norm', 'spectral_norm_bound'


@pytest.mark.parametrize('name', BUILDERS)
def test_results_are_those_of_constant_weights(name):
    layer = build(name)
    outside = results(layer)
    with constant_weights(layer):
        inside = [results(layer), results(layer)]
        with torch.inference_mode():
            assert equal([layer(features())], outside[:1])
    with torch.inference_mode(), constant_weights(layer):
        inside.append([layer(features())])
    assert equal(inside[0], outside) and equal(inside[1], outside) and equal(inside[2], outside[:1])


@pytest.fixture
def counted(monkeypatch) -> list[str]:
    """A name for each norm that a layer asks for."""
    calls = []
    for module in [module for name, module in sys.modules.items() if name.startswith('mmseg_invattn.layers')]:
        for norm in NORMS:
            if norm in vars(module):
                whole = vars(module)[norm]
                monkeypatch.setattr(
                    module,
                    norm,
                    lambda *args, norm=norm, whole=whole, **kwargs: calls.append(norm) or whole(*args, **kwargs),
                )
    return calls


@pytest.mark.parametrize(
    'name',
    [
        name
        for name in BUILDERS
        if name.startswith(('certified', 'conditional', 'convol', 'memory free', 'sequence')) or 'positions' in name
    ],
)
def test_norms_are_computed_once(name, counted):
    """Once for the weights, and once for each bound that is asked for."""
    layer, x = build(name), features()
    if 'sequence' in name:  # without the layers whose error bound is around the features
        layer = InvertibleSequential(CertifiedAttention2d(8), OrthogonalConv1x1(8), InvConvResidual(8))
        layer = MemoryFree(layer) if 'memory' in name else layer
    layer.weights()
    once = len(counted)
    assert once > 0
    with torch.no_grad():
        layer(x)
        assert len(counted) == 2 * once  # outside: at every call
        counted.clear()
        with constant_weights(layer):
            assert len(counted) == once
            y = layer(x)
            layer.forward_and_log_abs_det(x, 2)
            assert len(counted) == once
            layer.inverse(y, certify=False)  # a certificate asks for norms around the features
            layer.lipschitz_bound(), layer.lipschitz_bound(7)
            after = len(counted)
            for _ in range(2):
                layer(x), layer.inverse(y, certify=False), layer.recover_input(y, 1e-6, 100)
                layer.forward_and_log_abs_det(x, 2)
                layer.lipschitz_bound(), layer.lipschitz_bound(7), layer.bi_lipschitz_bound()
                layer.inverse_error(x, torch.ones(2))
                getattr(layer, 'saturation', layer)(x)
            assert len(counted) == after
    counted.clear()
    with constant_weights(layer):
        counted.clear()
        y = layer(x)  # with gradients: they have to reach the parameters
        y.sum().backward()
        assert counted.count('gram_norm') == once


def gradients(layer: nn.Module) -> list[Tensor]:
    layer.zero_grad()
    x = features().requires_grad_()
    y = layer(x)
    (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    return [x.grad, *(p.grad for p in layer.parameters() if p.grad is not None)]


@pytest.mark.parametrize('name', BUILDERS)
def test_gradients_reach_the_parameters_inside(name):
    layer = build(name)
    outside = gradients(layer)
    with constant_weights(layer):
        with torch.no_grad():
            layer(features())
        inside = gradients(layer)
    assert len(inside) > 1 and equal(inside, outside)
    if isinstance(layer, MemoryFree):
        return
    layer.requires_grad_(False)  # frozen: the features alone have a gradient, through the constant weights
    outside = gradients(layer)
    with constant_weights(layer):
        assert equal(gradients(layer), outside) and len(outside) == 1


INSIDE = {
    'in place': lambda layer: next(layer.parameters()).add_(2),
    'data': lambda layer: next(layer.parameters()).data.add_(2),
    'assigned data': lambda layer: setattr(p := next(layer.parameters()), 'data', p.data + 2),
    'a buffer': lambda layer: next(b for b in layer.buffers() if b.dtype == torch.bool).logical_not_(),
    'loading': lambda layer: layer.load_state_dict(other_state(layer, 1)),
    'assigning': lambda layer: layer.load_state_dict(other_state(layer, 1), assign=True),
    'assigning the same values': lambda layer: layer.load_state_dict(copy.deepcopy(layer.state_dict()), assign=True),
    'fused optimiser': lambda layer: next(fused_optimiser(layer)),
    'the first batch': lambda layer: layer.train()(features()),
    'vectors': lambda layer: next(vectors(layer)),
    'dtype': lambda layer: layer.double(),
    'pruning': pruned,
    'a new layer': lambda layer: layer.layers.append(OrthogonalConv1x1(8)),
}


@pytest.mark.parametrize('change', INSIDE)
def test_a_change_inside_is_an_error(change):
    layer = nn.Sequential(nn.Identity(), sequence()).eval()
    with torch.no_grad(), pytest.raises(RuntimeError, match=r'was changed inside constant_weights\(\)'):
        with constant_weights(layer):
            layer(features())
            INSIDE[change](layer[1])
    assert not HELD
    after = results(layer[1], next(layer.parameters()).dtype)
    if change not in ('pruning', 'a new layer'):
        assert equal(after, results(fresh('sequence', layer[1].state_dict()), next(layer.parameters()).dtype))


def test_layers_that_come_and_go_inside_are_an_error():
    for change in (lambda layers: layers.append(InvConvResidual(8)), lambda layers: layers.pop(1)):
        layer = InvertibleSequential(InvConvResidual(8), InvConvResidual(8))
        with pytest.raises(RuntimeError, match=r'was changed inside constant_weights\(\)'), constant_weights(layer):
            change(layer.layers)
        assert not HELD


def test_errors_inside_come_out_as_they_are():
    layer = build('certified-gaussian')
    with pytest.raises(KeyError), constant_weights(layer):
        with torch.no_grad():
            next(layer.parameters()).add_(1)
        raise KeyError
    assert not HELD
    with pytest.raises(ValueError, match='not finite'), constant_weights(layer):
        layer.inverse(torch.full((1, 8, 2, 2), torch.nan))
    assert not HELD


def test_nested_contexts(counted):
    layer, x = build('memory free sequence'), features()
    with torch.no_grad():
        outside = results(layer)
        with constant_weights(layer):
            counted.clear()
            with constant_weights(layer.module), constant_weights(layer.module[1]), constant_weights(nn.Identity()):
                layer(x)
                assert equal(results(layer), outside)
            held = dict(HELD)
            layer(x)
            assert equal(results(layer), outside)
            assert dict(HELD) == held  # the inner contexts have discarded nothing of the outer one
            assert counted.count('gram_norm') == 0
        assert not HELD
        with constant_weights(layer.module[1]):  # a part first, then the whole
            with constant_weights(layer):
                assert equal(results(layer), outside) and len(HELD) > 5
            assert list(HELD) == [layer.module[1]]
            assert equal(results(layer), outside)
    assert not HELD
    other = build('certified-l2')
    with pytest.raises(RuntimeError, match='was changed inside'), torch.no_grad():
        with constant_weights(layer), constant_weights(other):
            next(layer.parameters()).add_(1)
    assert not HELD and not equal(results(layer), outside)


def test_an_inverse_of_a_sequence_derives_each_layer_once(counted):
    """Outside of any context: one solve has one set of weights, which nothing keeps."""
    layer = InvertibleSequential(CertifiedAttention2d(8), InvConvResidual(8)).eval()
    with torch.no_grad():
        y = layer(features())
        once = counted.count('gram_norm')
        assert once == len(counted) > 0
        with constant_weights(layer):
            counted.clear()
            layer.lipschitz_bound(), layer.lipschitz_bound(16)
            bounds = len(counted)
        counted.clear()
        layer.inverse(y, certify=False)
        assert counted.count('gram_norm') == once and counted.count('spectral_norm_bound') == bounds > 0
    assert not HELD


def test_inference_mode_and_compilation_leave_nothing_behind():
    layer = build('certified-heads')
    x = features()
    with torch.inference_mode():
        inside = layer(x)
    with torch.no_grad():
        compiled = torch.compile(layer, backend='eager', fullgraph=True)(x)
        torch.testing.assert_close(compiled, inside)
        with constant_weights(layer):
            torch.testing.assert_close(torch.compile(layer, backend='eager')(x), inside)
    layer(x).sum().backward()
    with torch.no_grad():
        torch.testing.assert_close(layer(x), inside)
    assert not HELD and all(p.grad is not None for p in layer.parameters())
    assert all(isinstance(part, Tensor) for part in outputs(inside))


@pytest.mark.parametrize('name', ['certified-gaussian', 'conditional-l2', 'convolutions', 'positions', 'sequence'])
def test_other_parameters_count_inside_too(name):
    """``functional_call`` puts parameters in place for a moment: what is held belongs to the ones before."""
    layer = build(name)
    other = {name: p.detach() + 0.3 for name, p in layer.named_parameters()}
    with torch.no_grad():
        want, own = torch.func.functional_call(layer, other, (features(),)), layer(features())
        with constant_weights(layer):
            assert torch.equal(torch.func.functional_call(layer, other, (features(),)), want)
            assert torch.equal(layer(features()), own)
