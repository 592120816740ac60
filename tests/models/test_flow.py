"""The flow: its density is the exact one, its gradients do not depend on how activations are kept, it samples."""

import math

import pytest
import torch
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch import Tensor

from mmseg_invattn.evaluation.bits_per_dim_metric import BitsPerDimMetric
from mmseg_invattn.layers.data_dependent import DataDependentStart
from mmseg_invattn.models import InvResNetFlow
from mmseg_invattn.models.flows.prior import NormalPrior


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmseg')


def build(
    form: str | None = 'certified',
    mode: str = 'embedded_gaussian',
    dtype: torch.dtype = torch.float64,
    memory_free: bool = False,
    activation: str = 'ELU',
    **options,
) -> InvResNetFlow:
    """A flow of 4 x 4 images with two scales, its normalisation started."""
    torch.manual_seed(0)
    attention = dict() if form is None else dict(attention=dict(form=form, mode=mode), attention_stages=(0,))
    model = MODELS.build(
        dict(
            type='InvResNetFlow',
            image_size=(4, 4),
            **options,
            backbone=dict(
                type='InvResNet',
                strides=(2, 2),
                out_indices=(0, 1),
                stage_blocks=(1, 1),
                hidden_channels=(8, 8),
                kernel_sizes=(3, 1, 3),
                contraction=0.7,
                activation=activation,
                memory_free=memory_free,
                **attention,
            ),
        )
    ).to(dtype)
    model.train()(images(dtype=dtype, count=8))
    with torch.no_grad():  # away from the start, at which the prior has no effect
        for parameter in model.prior.parameters():
            parameter.normal_(std=0.3)
    return model


def images(count: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(count, 3, 4, 4, dtype=dtype, generator=torch.Generator().manual_seed(1)) - 0.5


def flat_latents(model: InvResNetFlow, x: Tensor) -> Tensor:
    return torch.cat([z.flatten(1) for z in model(x)], 1)


@pytest.mark.parametrize(
    ('form', 'mode', 'activation'),
    [
        (None, '', 'ELU'),
        (None, '', 'LipSwish'),
        ('certified', 'embedded_gaussian', 'ELU'),
        ('certified', 'concatenation', 'ELU'),
        ('conditional', 'l2', 'LipSwish'),
        ('coupling', 'dot_product', 'ELU'),
        ('paper', 'gaussian', 'ELU'),
    ],
)
def test_density_is_the_change_of_variables(form, mode, activation):
    model = build(form, mode, activation=activation).eval()
    x = images()
    log_p = model.log_prob(x, n_terms='exact').detach()
    for i in range(len(x)):
        jacobian = torch.autograd.functional.jacobian(lambda x: flat_latents(model, x[None])[0], x[i]).reshape(48, 48)
        z = flat_latents(model, x[i : i + 1]).detach()
        expected = -z.square().sum() / 2 - 24 * math.log(2 * math.pi) + torch.linalg.slogdet(jacobian)[1]
        assert float(log_p[i]) == pytest.approx(float(expected), abs=1e-9)
    bits = model.bits_per_dim(log_p, x)
    assert torch.allclose(bits, -log_p / math.log(2) / 48 + 8)


def test_estimates_agree_with_the_exact_density_within_their_bound():
    model = build().eval()
    x = images().repeat_interleave(100, 0)
    exact = model.log_prob(x[::100], n_terms='exact').detach()
    bounds = [float(model.backbone.log_abs_det_error_bound(x, n_terms).max()) for n_terms in (3, 30)]
    with torch.no_grad():
        for n_terms, allowed in ((3, bounds[0]), ('roulette', 0.0), (30, bounds[1])):
            estimate = model.log_prob(x, n_terms=n_terms, n_samples=4).unflatten(0, (2, 100))
            error = (estimate.mean(1) - exact).abs()
            noise = 5 * estimate.std(1) / 10
            assert (error <= allowed + noise).all(), (n_terms, error, allowed, noise)


def test_gradients_do_not_depend_on_how_activations_are_kept():
    found = []
    for memory_free in (False, True):
        model = build('conditional', 'gaussian', memory_free=memory_free, num_classes=3)
        x = images().requires_grad_()
        torch.manual_seed(5)
        loss = model(x, torch.tensor([0, 2]), mode='loss')['loss']
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        found.append((loss.detach(), x.grad, [p.grad for p in model.parameters()]))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-8, atol=1e-10)
    assert all(torch.allclose(a, b, rtol=1e-7, atol=1e-10) for a, b in zip(found[0][2], found[1][2], strict=True))


def test_memory_free_draws_do_not_disturb_the_generator():
    draws = []
    for memory_free in (False, True):
        model = build(memory_free=memory_free)
        torch.manual_seed(3)
        model(images(), mode='loss')['loss'].backward()
        draws.append(torch.rand(()))
    assert draws[0] == draws[1]


def test_latents_come_back_within_the_reported_bound():
    model = build(dtype=torch.float32, test_cfg=dict(reconstruct=True)).eval()
    results = model(images(5, torch.float32), mode='predict')
    for result in results:
        assert result['error'] <= result['error_bound'] < 1e-2 and result['converged']
        assert (result['recovered'] - result['original']).abs().max() < 1e-5
        assert math.isfinite(result['bits_per_dim']) and result['bias_bound'] > 0


def test_samples_follow_seed_temperature_and_class():
    model = build(num_classes=3).eval()
    x, info = model.sample(6, seed=1)
    assert x.shape == (6, 3, 4, 4) and x.isfinite().all() and info.converged.all()
    assert torch.equal(x, model.sample(6, seed=1)[0]) and not torch.equal(x, model.sample(6, seed=2)[0])
    assert torch.equal(x, model.sample(6, seed=1, labels=torch.tensor([0, 1, 2, 0, 1, 2]))[0])
    cold = model.sample(6, temperature=0.0)[0]
    assert torch.allclose(cold[:3], cold[3:]) and not torch.allclose(cold[0], cold[1])
    z = flat_latents(model, x)
    last, *latents = model.backbone.flow(x)
    n = torch.cat([part.flatten(1) for part in (*latents, last)], 1)
    assert torch.allclose(z, n)
    with pytest.raises(ValueError, match='temperature=-1'):
        model.sample(6, temperature=-1)
    with pytest.raises(ValueError, match='labels from 0 to 3'):
        model.sample(4, labels=torch.arange(4))


def test_prior_is_the_normal_density():
    torch.manual_seed(0)
    prior = NormalPrior((2, 3), num_classes=4).double()
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter)
    labels = torch.tensor([3, 1])
    z = [torch.randn(2, 2, 4, 4, dtype=torch.float64), torch.randn(2, 3, 2, 2, dtype=torch.float64)]
    means, scales = (p[labels].split((2, 3), 1) for p in (prior.mean, prior.log_scale.exp()))
    expected = sum(
        torch.distributions.Normal(m[..., None, None], s[..., None, None]).log_prob(part).sum((1, 2, 3))
        for part, m, s in zip(z, means, scales, strict=True)
    )
    assert torch.allclose(prior.log_prob(z, labels), expected)
    with pytest.raises(ValueError, match='num_classes=4 and needs the labels'):
        prior.log_prob(z, None)
    with pytest.raises(ValueError, match='num_classes=0'):
        NormalPrior((2,), 0)


def test_actnorm_starts_from_the_first_training_batch():
    model = build()
    starts = [module for module in model.modules() if isinstance(module, DataDependentStart)]
    assert len(starts) == 3 and all(module.initialised for module in starts)  # two blocks and the attention


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="test_cfg takes no \\['terms'\\]"):
        build(test_cfg=dict(terms=3))
    with pytest.raises(ValueError, match="mode='train'"):
        build()(images(), mode='train')


def test_metric():
    metric = BitsPerDimMetric()
    metric.process({}, [dict(bits_per_dim=value, bias_bound=0.25) for value in (3.0, 4.0, 5.0)])
    found = metric.evaluate(3)
    assert found == {
        'flow/bits_per_dim': 4.0,
        'flow/standard_error': pytest.approx(3**-0.5),
        'flow/bias_bound': 0.25,
        'flow/images': 3,
    }
    metric.process({}, [dict(bits_per_dim=3.0, bias_bound=math.nan)])
    assert math.isnan(metric.evaluate(1)['flow/bias_bound'])
