"""Numbers derived from parameters are never stale or kept, and are derived once if the caller asks for it."""

import copy
import gc
import pickle
import sys

import pytest
import torch
from helpers.block_cases import net
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, prune, vector_to_parameters
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mmseg_invattn.layers import (
    FORMS,
    ActNorm2d,
    AdditiveCoupling,
    CertifiedAttention2d,
    InvChannelAttention,
    InvConv1x1,
    InvConvResidual,
    InvertibleModule,
    InvertibleSequential,
    InvRelativeAttention2d,
    MemoryFree,
    OrthogonalConv1x1,
    constant_weights,
)
from mmseg_invattn.layers.contract import outputs

HELD = sys.modules['mmseg_invattn.layers.constant_weights']._HELD
NORMS = 'gram_norm', 'spectral_norm_bound'


def weak_paper(**options) -> nn.Module:
    """Form paper, so weak that its inverse converges."""
    block = FORMS['paper'](8, gamma='scalar', **options)
    nn.init.constant_(block.gamma, 0.02)
    return block


def sequence() -> InvertibleSequential:
    return InvertibleSequential(
        ActNorm2d(8),
        CertifiedAttention2d(8, num_heads=2),
        OrthogonalConv1x1(8),
        InvertibleSequential(InvConv1x1(8), AdditiveCoupling(8, net(8)), FORMS['coupling'](8)),
        InvConvResidual(8, contraction=0.5),
        InvRelativeAttention2d(8, 3, contraction=0.5),
    )


MODES = 'embedded_gaussian', 'gaussian', 'concatenation', 'l2'
BUILDERS = {
    **{
        f'{form}-{mode}': lambda form=form, mode=mode, **more: FORMS[form](8, mode=mode, **more)
        for form in FORMS
        if form != 'paper'
        for mode in MODES
    },
    **{f'paper-{mode}': lambda mode=mode, **more: weak_paper(mode=mode, **more) for mode in MODES},
    'paper-conv': lambda: FORMS['paper'](8),
    'certified-heads': lambda **more: FORMS['certified'](
        8, num_heads=2, sharpness='learned', position='quadratic', **more
    ),
    'certified-shared': lambda **more: FORMS['certified'](8, num_heads=2, heads='shared', sharpness='log_n', **more),
    'conditional-heads': lambda **more: FORMS['conditional'](
        8, num_heads=2, sharpness='learned', position='learned', **more
    ),
    'channel': lambda **more: InvChannelAttention(8, sharpness='learned', **more),
    'convolutions': lambda **more: InvConvResidual(8, **more),
    'positions': lambda **more: InvRelativeAttention2d(8, 3, **more),
    'learned positions': lambda **more: InvRelativeAttention2d(
        8, 3, encoding='learned_2d', position_size=4, position_channels=5, **more
    ),
    'full positions': lambda **more: InvRelativeAttention2d(8, 3, covariance='full', **more),
    'orthogonal': lambda: OrthogonalConv1x1(8),
    'conv1x1': lambda: InvConv1x1(8),
    'actnorm': lambda: ActNorm2d(8),
    'sequence': sequence,
    'memory free': lambda: MemoryFree(CertifiedAttention2d(8, num_heads=2)),
    'memory free sequence': lambda: MemoryFree(sequence()),
}
CONTRACTIONS = [
    name
    for name in BUILDERS
    if name.startswith(('certified', 'conditional', 'channel', 'conv')) and name != 'conv1x1' or 'positions' in name
]


def build(name: str, **more) -> nn.Module:
    torch.manual_seed(0)
    return BUILDERS[name](**more).eval()


def features() -> Tensor:
    return torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(1))


def results(layer: nn.Module, dtype: torch.dtype = torch.float32) -> list:
    """All that a layer says: outputs, inverse with its report, determinant, and every bound."""
    x = features().to(dtype)
    with torch.no_grad():
        y = layer(x)
        if not isinstance(layer, InvertibleModule):
            return [y]
        x_hat, info = layer.inverse(y, max_iter=30, strict=False)
        error = layer.error_norm(x) * 1e-3
        torch.manual_seed(2)
        both = layer.forward_and_log_abs_det(x, 2)
        return [
            y,
            x_hat,
            *info[:-1],
            layer.inverse_error(x, error),
            *both,
            layer.lipschitz_bound(),
            layer.lipschitz_bound(7),
            *layer.bi_lipschitz_bound(),
            layer.log_abs_det_error_bound(x, 2),
        ]


def equal(ours: list, theirs: list) -> bool:
    return all(
        torch.equal(a.nan_to_num(-7), b.nan_to_num(-7)) and a.dtype == b.dtype if isinstance(a, Tensor) else a == b
        for a, b in zip(ours, theirs, strict=True)
    )


def run(layer: nn.Module) -> None:
    """Every way in which something could be kept: with and without gradients, in inference mode."""
    layer(features()).square().sum().backward()
    layer.zero_grad()
    results(layer)
    with torch.inference_mode():
        layer(features())
        if isinstance(layer, InvertibleModule):
            layer.inverse(layer(features()), strict=False)
            layer.lipschitz_bound()


def fresh(name: str, state: dict[str, Tensor], **more) -> nn.Module:
    """A layer that has never run, with that state."""
    layer = build(name, **more).to(next(t.dtype for t in state.values() if t.is_floating_point()))
    layer.load_state_dict({key: tensor.detach().clone() for key, tensor in state.items()})
    return layer


def other_state(layer: nn.Module, seed: int) -> dict[str, Tensor]:
    """Parameters of another checkpoint."""
    generator = torch.Generator().manual_seed(seed)
    learned = {name for name, _ in layer.named_parameters()}
    return {
        name: tensor + 0.2 * torch.randn(tensor.shape, generator=generator) if name in learned else tensor.clone()
        for name, tensor in layer.state_dict().items()
    }


def add_to_parameters(layer: nn.Module, value: float) -> None:
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(value)


# Each yields layers whose results are to be those of a fresh one; between them they are asked for.
def in_place(layer):
    for _ in range(2):
        with torch.no_grad():
            for p in layer.parameters():
                p.mul_(0.7).add_(0.1)
        yield layer


def fused_optimiser(layer):
    optimiser = torch.optim.AdamW(layer.parameters(), lr=0.05, fused=True)
    for _ in range(3):
        for p in layer.parameters():
            p.grad = torch.randn_like(p)
        optimiser.step()
        yield layer


def training(layer):
    optimiser = torch.optim.AdamW(layer.parameters(), lr=0.02, fused=True)
    for _ in range(3):
        optimiser.zero_grad()
        layer(features()).square().mean().backward()
        optimiser.step()
        yield layer


def loading(layer):
    for seed in (1, 2):
        layer.load_state_dict(other_state(layer, seed))
        yield layer


def assigning(layer):
    checkpoints = [other_state(layer, seed) for seed in (1, 2)]
    for k in (0, 1, 0):  # in turn: memory of the first may come back as that of another
        layer.load_state_dict(copy.deepcopy(checkpoints[k]), assign=True)
        gc.collect()
        yield layer


def deep_copies(layer):
    for _ in range(2):
        before, layer = layer, copy.deepcopy(layer)
        add_to_parameters(layer, 0.1)
        yield layer
        yield before


def pickles(layer):
    before, layer = layer, pickle.loads(pickle.dumps(layer))
    add_to_parameters(layer, 0.1)
    yield layer
    yield before


def vectors(layer):
    for sign in (1, -1):
        vector = parameters_to_vector(layer.parameters()).detach()
        vector_to_parameters(vector + sign * 0.1, layer.parameters())
        yield layer
        vector.fill_(3.0)  # parameters are views of the vector that was given, and not of this one
        yield layer


def data_writes(layer):
    for p in layer.parameters():
        p.data.mul_(0.8)
    yield layer
    for p in layer.parameters():
        p.data = p.data + 0.1
    yield layer


def another_dtype(layer):
    yield layer.double()
    yield layer.float()


def moving_average(layer):
    average = AveragedModel(layer, multi_avg_fn=get_ema_multi_avg_fn(0.5)).eval()
    average.update_parameters(layer)
    yield average.module
    for _ in range(3):
        with torch.no_grad():
            for p in layer.parameters():
                p.add_(0.1)
        average.update_parameters(layer)
        yield average.module
        yield layer


CHANGES = [
    in_place,
    fused_optimiser,
    training,
    loading,
    assigning,
    deep_copies,
    pickles,
    vectors,
    data_writes,
    another_dtype,
    moving_average,
]


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


def pruned(layer: nn.Module) -> None:
    """Every third number of every parameter."""
    for module in list(layer.modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            mask = torch.ones_like(parameter)
            mask.view(-1)[::3] = 0
            prune.custom_from_mask(module, name, mask)


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
