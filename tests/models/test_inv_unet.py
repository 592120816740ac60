"""The invertible U-Net: image -> features at full resolution -> image, and what training it takes."""

import copy

import pytest
import torch
from helpers.backbone_cases import check_round_trip, check_segmentor, images, peak_saved_bytes, train
from mmengine.config import ConfigDict
from mmseg.registry import MODELS
from mmseg.utils import register_all_modules

from mmseg_invattn.layers import GridDownsample
from mmseg_invattn.layers.flow.grid import grid_step, to_grid
from mmseg_invattn.models import InvUNet

ATTENTION = {
    'without': {},
    'certified': dict(attention=dict(form='certified', position='learned'), attention_stages=(1, 2)),
    'conditional': dict(attention=dict(form='conditional'), attention_stages=(2,)),
    'coupling': dict(attention=dict(form='coupling'), attention_stages=(0, 2)),
}


def u_net(form: str = 'without', **options) -> InvUNet:
    return InvUNet(**(dict(base_channels=8, num_stages=3, stage_blocks=1) | ATTENTION[form] | options))


@pytest.mark.parametrize('form', ATTENTION)
def test_image_features_image(form):
    """Bit for bit up to the grid, before and after training, at more than one size and batch."""
    torch.manual_seed(0)
    net, x = u_net(form), images(2, 3, 32, 64)
    bound = 1.001 * grid_step(torch.float32) / 2 * 3**0.5
    check_round_trip(net.eval(), x, bound)
    train(net, 3, x)
    check_round_trip(net, x, bound)
    with torch.no_grad():
        x = images(1, 3, 24, 20)
        features = net(x)
        assert torch.equal(net.inverse(features)[0], to_grid(x))
    assert features[-1].shape == (1, 8, 24, 20)
    assert [f.shape[1] for f in features] == list(net.out_channels)
    assert [24 // f.shape[2] for f in features] == list(net.out_strides)
    assert len(features) == 1 + (len(net_stages(form)) if form in ('certified', 'conditional') else 0)


def net_stages(form: str) -> tuple[int, ...]:
    return ATTENTION[form].get('attention_stages', ())


@pytest.mark.parametrize('form', ATTENTION)
def test_recovered_gradients_are_the_plain_ones(form):
    """In float32, up to the order of sums: what is recovered on the grid is what was there."""
    torch.manual_seed(1)
    free, x = u_net(form), images(2, 3, 16, 32)
    train(free, 1, x)
    plain = u_net(form, memory_free=False)
    plain.load_state_dict(free.state_dict())
    got = []
    for net in (free, plain):
        net.zero_grad()
        image = x.clone().requires_grad_()
        net(image)[-1].square().sum().backward()
        got.append({name: p.grad for name, p in net.named_parameters()} | {'image': image.grad})
    for name, gradient in got[0].items():
        assert gradient is not None and gradient.abs().max() > 0, name
        torch.testing.assert_close(gradient, got[1][name], rtol=1e-5, atol=1e-5 * float(gradient.abs().max()), msg=name)


def test_activation_memory_against_blocks():
    """Stored activations grow with the number of blocks, recovered ones do not."""
    torch.manual_seed(2)
    x = images(1, 3, 32, 64)
    peaks = {
        free: [peak_saved_bytes(u_net(memory_free=free, stage_blocks=n), x) for n in (1, 4)] for free in (True, False)
    }
    assert peaks[True][1] <= 1.05 * peaks[True][0], peaks
    assert peaks[False][1] > 2.5 * peaks[False][0], peaks
    assert peaks[True][1] < peaks[False][1] / 4, peaks


def test_log_abs_det():
    """Of as many features as the image has numbers: the exact determinant of the Jacobian."""
    torch.manual_seed(3)
    net = u_net('certified', in_channels=2, base_channels=2, num_stages=2, attention_stages=(1,)).double()
    x = to_grid(torch.randn(2, 2, 2, 4, dtype=torch.float64))
    given = net.log_abs_det(x, n_terms='exact')
    plain = copy.deepcopy(net.flow)
    for b in range(2):
        jacobian = torch.autograd.functional.jacobian(lambda x: plain(x)[0], x[b : b + 1]).reshape(16, 16)
        torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], given[b], rtol=1e-9, atol=1e-10)
    assert (given != 0).all() and (net.log_abs_det_error_bound(x, 'exact') == 0).all()
    with pytest.raises(ValueError, match='has no log-determinant'):
        u_net().log_abs_det(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize('start', ['haar', 'space_to_depth'])
def test_without_convolutions_it_is_the_identity(start):
    """Down and up undo each other, and the image is in the first channels."""
    torch.manual_seed(4)
    net, x = u_net(start=start, stage_blocks=0), images(1, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(net(x)[0][:, :3], to_grid(x), rtol=0, atol=10 * grid_step(x.dtype))


def test_in_a_segmentor():
    """As configs use it: one head on the last features, padding to the stride at inference."""
    torch.manual_seed(5)
    register_all_modules()
    model = MODELS.build(
        ConfigDict(
            type='EncoderDecoder',
            data_preprocessor=dict(type='SegDataPreProcessor', size_divisor=4, test_cfg=dict(size_divisor=4)),
            backbone=dict(type='InvUNet', base_channels=8, num_stages=3, stage_blocks=1, **ATTENTION['certified']),
            decode_head=dict(type='FCNHead', in_channels=8, channels=8, num_classes=3, num_convs=1),
            train_cfg=dict(),
            test_cfg=dict(mode='whole'),
        )
    )
    model.init_weights()
    check_segmentor(model, (30, 32), (25, 35))


def test_starts_are_those_of_the_option():
    haar, plain = (u_net(start=start) for start in ('haar', 'space_to_depth'))
    first = [next(m for m in net.modules() if isinstance(m, GridDownsample)).kernel() for net in (haar, plain)]
    assert (first[0].abs() - 0.5).abs().max() < 1e-6 and set(first[1].unique().tolist()) == {0.0, 1.0}


def test_about_as_many_parameters_as_the_u_net():
    register_all_modules()
    with torch.device('meta'):
        ours, theirs = (
            sum(p.numel() for p in MODELS.build(dict(type=name)).parameters()) for name in ('InvUNet', 'UNet')
        )
    assert 0.9 < ours / theirs < 1.1, (ours, theirs)


@pytest.mark.parametrize(
    'build, message',
    [
        (lambda: u_net(base_channels=7), r'base_channels=7 must be even.*choose 8'),
        (lambda: u_net(base_channels=2), r'at least in_channels=3.*choose 4'),
        (lambda: u_net(num_stages=0), 'num_stages=0'),
        (lambda: u_net(base_channels=8.0), 'base_channels=8.0 is not a positive integer'),
        (lambda: u_net(stage_blocks=(1, 2)), r'stage_blocks=\(1, 2\) has 2 entries for the 3 stages of num_stages=3'),
        (lambda: u_net(stage_blocks=(1, 2, -1)), 'stage_blocks'),
        (lambda: u_net(kernel_sizes=(3, 2)), r'kernel_sizes=\(3, 2\) must be odd'),
        (lambda: u_net(attention=dict(form='certified')), 'give both or neither'),
        (lambda: u_net(attention=dict(form='certified'), attention_stages=(3,)), 'not all from 0 to 2'),
        (lambda: u_net(attention=dict(form='certified'), attention_stages=(1, 1)), 'name a stage twice'),
        (lambda: u_net(attention=dict(form='none'), attention_stages=(2,)), 'has no inverse'),
        (lambda: u_net(attention=dict(form='paper'), attention_stages=(2,)), 'certificate'),
        (lambda: u_net(start='wavelet'), "start='wavelet'"),
        (
            lambda: u_net()(torch.zeros(1, 3, 30, 32)),
            'got images of 30 x 32; InvUNet takes multiples of its total stride 4: crop or pad them to 32 x 32',
        ),
    ],
)
def test_wrong_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.slow
@pytest.mark.parametrize('form', ATTENTION)
def test_full_size(form):
    """The default network of five stages, before and after training, and a copy of it."""
    torch.manual_seed(6)
    stages = dict(attention_stages=(4,)) if form != 'without' else {}
    net = InvUNet(**(ATTENTION[form] | stages))
    x = images(1, 3, 64, 96)
    bound = 1.001 * grid_step(torch.float32) / 2 * 3**0.5
    check_round_trip(net.eval(), x, bound)
    train(net, 2, x)
    check_round_trip(copy.deepcopy(net).eval(), x, bound)
