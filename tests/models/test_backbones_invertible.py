"""Backbones that are invertible from end to end: image -> features -> image, and what that costs."""

import copy

import pytest
import torch
import torch.distributed as dist
from helpers.backbone_cases import check_round_trip, check_segmentor, images, peak_saved_bytes, train
from helpers.two_processes import in_two_processes
from mmengine.config import ConfigDict
from mmseg.models.backbones import ResNet
from mmseg.registry import MODELS
from mmseg.utils import register_all_modules
from torch import nn

from mmseg_invattn.models import InvResNet, RevNet2d

SMALL = dict(stage_blocks=(1, 1, 2, 1), hidden_channels=(8, 12, 16, 16), attention_stages=(2, 3))
CERTIFIED = dict(form='certified', contraction=0.5, position='learned')
COUPLING = dict(form='coupling')
BACKBONES = {
    'InvResNet': lambda **kw: InvResNet(**(SMALL | dict(attention=CERTIFIED) | kw)),
    'RevNet2d': lambda **kw: RevNet2d(**(SMALL | dict(attention=COUPLING) | kw)),
}
TINY = dict(
    in_channels=1,
    strides=(2, 2),
    out_indices=(0, 1),
    stage_blocks=(1, 2),
    hidden_channels=(3, 5),
    attention_stages=(1,),
)


@pytest.mark.parametrize('memory_free', [True, False])
@pytest.mark.parametrize('name, bound', [('InvResNet', 1.0), ('RevNet2d', 1.1e-4)])
def test_image_features_image(name, bound, memory_free):
    """Within the reported bound at float32, before and after training, in eval and train mode."""
    torch.manual_seed(0)
    backbone, x = BACKBONES[name](memory_free=memory_free), images(2, 3, 64, 128)
    check_round_trip(backbone.eval(), x, bound)
    train(backbone, 3, x)
    check_round_trip(backbone, x, bound)
    check_round_trip(backbone.eval(), images(1, 3, 96, 64), bound)


@pytest.mark.parametrize('name', BACKBONES)
def test_outputs_determine_the_image(name):
    """As many numbers as the image, each of them free: other features are those of another image."""
    torch.manual_seed(1)
    backbone, x = BACKBONES[name]().double(), images(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        features = backbone(x)
        assert sum(f.numel() for f in features) == x.numel()
        assert backbone.out_channels == (24, 48, 96, 384) and backbone.out_strides == (4, 8, 16, 32)
        for f, channels, stride in zip(features, backbone.out_channels, backbone.out_strides, strict=True):
            assert f.shape == (1, channels, 64 // stride, 64 // stride)
        for i in range(len(features)):
            other = [f + (0.125 if j == i else 0) * torch.randn_like(f).sign() for j, f in enumerate(features)]
            image, info = backbone.inverse(other, tol=1e-13)
            assert (image - x).abs().max() > 1e-2
            for f, g in zip(backbone(image), other, strict=True):
                torch.testing.assert_close(f, g, rtol=1e-8, atol=1e-8)
    with pytest.raises(ValueError, match=r'got features with \[24, 48\] channels; the inverse takes all'):
        backbone.inverse(features[:2])


@pytest.mark.parametrize('name', BACKBONES)
def test_log_abs_det(name):
    torch.manual_seed(2)
    backbone = BACKBONES[name](**TINY).double()
    x = torch.randn(2, 1, 4, 8, dtype=torch.float64)
    backbone(x)
    given = backbone.log_abs_det(x, n_terms='exact')
    assert (backbone.log_abs_det_error_bound(x, 'exact') == 0).all()
    plain = BACKBONES[name](**TINY, memory_free=False).double()
    plain.load_state_dict(backbone.state_dict())  # the same names
    for b in range(2):
        jacobian = torch.autograd.functional.jacobian(
            lambda x: torch.cat([f.flatten() for f in plain(x)]), x[b : b + 1]
        ).flatten(1)
        torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], given[b], rtol=1e-9, atol=1e-10)
    assert (given == 0).all() if name == 'RevNet2d' else (given != 0).all()


@pytest.mark.parametrize('name', BACKBONES)
def test_recovered_gradients_are_the_plain_ones(name):
    torch.manual_seed(3)
    free = BACKBONES[name]().double()
    x = images(2, 3, 64, 64, dtype=torch.float64)  # two rows in the last stage, or its row positions do not matter
    free(x)
    plain = BACKBONES[name](memory_free=False).double()
    plain.load_state_dict(free.state_dict())
    got = []
    for backbone in (free, plain):
        image = x.clone().requires_grad_()
        features = backbone(image)
        weights = [torch.linspace(-1, 1, f.numel(), dtype=f.dtype).view_as(f) for f in features]
        sum((f * w).sum() for f, w in zip(features, weights, strict=True)).backward()
        got.append({name: p.grad for name, p in backbone.named_parameters()} | {'image': image.grad})
    for name, gradient in got[0].items():
        assert gradient is not None and gradient.abs().max() > 0, name
        torch.testing.assert_close(gradient, got[1][name], rtol=1e-7, atol=1e-8 * float(gradient.abs().max()), msg=name)


@pytest.mark.parametrize('name', BACKBONES)
def test_activation_memory_against_depth(name):
    """Stored activations grow with the number of blocks, recovered ones do not."""
    torch.manual_seed(4)
    x = images(1, 3, 64, 128)
    peaks = {
        free: [
            peak_saved_bytes(
                BACKBONES[name](memory_free=free, attention=None, attention_stages=(), stage_blocks=(n,) * 4), x
            )
            for n in (1, 4)
        ]
        for free in (True, False)
    }
    assert peaks[True][1] <= 1.05 * peaks[True][0], peaks
    assert peaks[False][1] > 2.5 * peaks[False][0], peaks
    assert peaks[True][1] < peaks[False][1] / 4, peaks


@pytest.mark.parametrize('name', BACKBONES)
def test_autocast_leaves_the_streams_alone(name):
    torch.manual_seed(5)
    backbone, x = BACKBONES[name](), images(1, 3, 32, 32)
    backbone(x)
    with torch.autocast('cpu', torch.bfloat16):
        under = backbone(x)
        sum(f.sum() for f in under).backward()
    for a, b in zip(under, backbone(x), strict=True):
        assert a.dtype == torch.float32 and torch.equal(a, b)
    assert all(p.grad.dtype == torch.float32 for p in backbone.parameters())
    half = backbone(x.half())
    assert all(f.dtype == torch.float32 for f in half)


@pytest.mark.parametrize('name', BACKBONES)
def test_in_a_segmentor(name):
    """As configs use it: auxiliary head, all scales in the decode head, padding to the stride at inference."""
    torch.manual_seed(6)
    register_all_modules()
    head = dict(type='FCNHead', num_classes=3, num_convs=1, norm_cfg=dict(type='GN', num_groups=4))
    model = MODELS.build(
        ConfigDict(
            type='EncoderDecoder',
            data_preprocessor=dict(type='SegDataPreProcessor', size_divisor=32, test_cfg=dict(size_divisor=32)),
            backbone=dict(type=name, **SMALL, attention=dict(CERTIFIED if name == 'InvResNet' else COUPLING)),
            decode_head=head
            | dict(in_channels=[24, 48, 96, 384], in_index=[0, 1, 2, 3], channels=16, input_transform='resize_concat'),
            auxiliary_head=head | dict(in_channels=96, in_index=2, channels=8),
            train_cfg=dict(),
            test_cfg=dict(mode='whole'),
        )
    )
    model.init_weights()
    check_segmentor(model, (60, 64), (50, 70))


@pytest.mark.parametrize(
    'build, message',
    [
        (lambda: InvResNet(depth=34), "depth=34 is unknown: choose one of '18', '50'"),
        (lambda: InvResNet(out_indices=(0, 1)), r'out_indices=\(0, 1\) must be stages from 0 to 3'),
        (lambda: RevNet2d(out_indices=(3, 0)), r'out_indices=\(3, 0\)'),
        (lambda: InvResNet(strides=(4, 2)), r'stage_blocks=\(2, 2, 2, 2\) has 4 entries for the 2 stages'),
        (lambda: InvResNet(attention=CERTIFIED), 'give both or neither'),
        (lambda: RevNet2d(attention_stages=(1,)), 'give both or neither'),
        (lambda: InvResNet(attention=CERTIFIED, attention_stages=(4,)), 'not all from 0 to 3'),
        (lambda: InvResNet(attention=dict(form='none'), attention_stages=(0,)), 'has no inverse'),
        (lambda: RevNet2d(attention=dict(form='certified'), attention_stages=(0,)), "does not have form='coupling'"),
        (lambda: RevNet2d(kernel_sizes=(3, 2)), r'kernel_sizes=\(3, 2\) must be odd'),
        (lambda: RevNet2d(strides=(1, 2, 2, 2)), 'stage 0 has 3 channels, which cannot be split into halves'),
        (
            lambda: BACKBONES['RevNet2d']()(torch.zeros(1, 3, 100, 130)),
            r'got images of 100 x 130; RevNet2d takes multiples of its total stride 32: crop or pad them to 128 x 160',
        ),
        (lambda: BACKBONES['InvResNet']().log_abs_det(torch.zeros(1, 3, 32, 33)), 'got images of 32 x 33'),
    ],
)
def test_wrong_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize('depth', [18, 50])
@pytest.mark.parametrize('backbone', [InvResNet, RevNet2d])
def test_about_as_many_parameters_as_the_resnet(backbone, depth):
    ours, theirs = (sum(p.numel() for p in net.parameters()) for net in (backbone(depth), ResNet(depth)))
    assert abs(ours / theirs - 1) < 0.06, (ours, theirs)


def test_other_strides_and_outputs():
    torch.manual_seed(7)
    x = images(1, 3, 32, 48)
    for name, build in BACKBONES.items():
        backbone = build(strides=(4, 2, 1, 1), out_indices=(0, 3))
        assert backbone.out_channels == (24, 96) and backbone.out_strides == (4, 8)
        assert [f.shape[1:] for f in backbone(x)] == [(24, 8, 12), (96, 4, 6)]
        one = build(strides=(4, 2, 1, 1), out_indices=(3,))
        (feature,) = one(x)
        assert feature.shape == (1, 192, 4, 6) and one.out_channels == (192,), name
        check_round_trip(one.eval(), x, 1.0)


def _distributed(rank: int, folder: str) -> None:
    dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    for name, build in BACKBONES.items():
        state = torch.load(f'{folder}/{name}.pt', weights_only=True)
        backbone = build().double()
        backbone.load_state_dict(state['weights'])
        wrapped = nn.parallel.DistributedDataParallel(backbone)
        sum(f.square().mean() for f in wrapped(state['x'][rank : rank + 1])).backward()
        if rank == 0:
            torch.save({n: p.grad for n, p in backbone.named_parameters()}, f'{folder}/{name}.grad.pt')
    dist.destroy_process_group()


@pytest.mark.slow
def test_distributed_step_is_the_single_one(tmp_path):
    torch.manual_seed(8)
    backbones = {name: build().double() for name, build in BACKBONES.items()}
    x = images(2, 3, 32, 32, dtype=torch.float64)
    for name, backbone in backbones.items():
        backbone(x)
        torch.save(dict(weights=backbone.state_dict(), x=x), tmp_path / f'{name}.pt')
    in_two_processes(_distributed, str(tmp_path))
    for name, backbone in backbones.items():
        sum(f.square().mean() for f in backbone(x)).backward()
        distributed = torch.load(tmp_path / f'{name}.grad.pt', weights_only=True)
        for n, p in backbone.named_parameters():
            torch.testing.assert_close(distributed[n], p.grad, rtol=1e-7, atol=1e-9, msg=n)


@pytest.mark.slow
@pytest.mark.parametrize('depth', ['18', '50'])
@pytest.mark.parametrize('name', BACKBONES)
def test_full_size(name, depth):
    """The presets themselves, with attention, before and after training, and a copy of them."""
    torch.manual_seed(9)
    backbone = dict(InvResNet=InvResNet, RevNet2d=RevNet2d)[name](
        depth, attention=dict(CERTIFIED if name == 'InvResNet' else COUPLING), attention_stages=(2, 3)
    )
    x = images(1, 3, 128, 256)
    bound = 1.1e-4 if name == 'RevNet2d' else 100.0  # 1 / (1 - contraction) for each block, in float32
    check_round_trip(backbone.eval(), x, bound)
    train(backbone, 2, x)
    check_round_trip(copy.deepcopy(backbone).eval(), x, bound)
