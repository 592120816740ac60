"""Attention inside ResNets: as a plugin of mmcv, and behind whole stages."""

import pytest
import torch
from helpers.head_cases import without_gradient
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.models.backbones import ResNetV1c
from mmseg.registry import MODELS

from mmseg_invattn.layers import FORMS, CertifiedAttention2d, CouplingAttention2d, OrthogonalConv1x1
from mmseg_invattn.models import InvAttentionResNet
from mmseg_invattn.ops import max_token_norm

NARROW = dict(stem_channels=8, base_channels=8, norm_cfg=dict(type='GN', num_groups=2), zero_init_residual=False)
TWO_STAGES = [
    dict(stage=1, form='certified'),
    dict(stage=3, type='CertifiedAttention2d', mode='l2'),
    dict(stage=1, form='coupling'),
]


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmseg')
    torch.manual_seed(0)


@pytest.mark.parametrize('form', ['certified', 'conditional', 'coupling', 'paper', 'none'])
@pytest.mark.parametrize(
    'backbone',
    [dict(type='ResNet'), dict(type='ResNetV1c'), dict(type='ResNeXt', groups=2, base_width=4)],
    ids=lambda cfg: cfg['type'],
)
def test_plugin_acts_in_its_stages(backbone, form):
    """From a text config, as mmcv's plugin layer builds it; in every bottleneck of the stages and nowhere else."""
    net = MODELS.build(
        Config(
            dict(
                model=backbone
                | NARROW
                | dict(
                    depth=50,
                    plugins=[
                        dict(
                            cfg=dict(type=FORMS[form].__name__, mode='embedded_gaussian'),
                            stages=(False, True, True, False),
                            position='after_conv3',
                        )
                    ],
                )
            )
        ).model
    )
    blocks = {name: module for name, module in net.named_modules() if isinstance(module, tuple(FORMS.values()))}
    assert len(blocks) == 4 + 6 and all(name.startswith(('layer2.', 'layer3.')) for name in blocks)
    assert {type(module) for module in blocks.values()} == {FORMS[form]}
    called = []
    for name, module in blocks.items():
        module.register_forward_hook(lambda *_, name=name: called.append(name))
    outputs = net(torch.randn(2, 3, 64, 64))
    assert called == list(blocks)
    sum(out.square().mean() for out in outputs).backward()
    assert not without_gradient(net)


def test_plugin_takes_its_postfix_at_another_position():
    plugins = [dict(cfg=dict(type='CertifiedAttention2d', postfix=f'_{i}'), position=f'after_conv{i}') for i in (2, 3)]
    net = MODELS.build(
        dict(
            type='ResNet',
            depth=50,
            num_stages=1,
            strides=(1,),
            dilations=(1,),
            out_indices=(0,),
            plugins=plugins,
            **NARROW,
        )
    )
    channels = [module.channels for module in net.modules() if isinstance(module, CertifiedAttention2d)]
    assert channels == [8, 32] * 3
    assert net(torch.randn(1, 3, 32, 32))[0].shape == (1, 32, 8, 8)


@pytest.mark.parametrize('depth, expansion', [(18, 1), (34, 1), (50, 4)])
def test_attention_behind_stages(depth, expansion):
    net = InvAttentionResNet(depth=depth, attention=TWO_STAGES, **NARROW)
    outputs = net(torch.randn(2, 3, 64, 64))
    assert [out.shape[1] for out in outputs] == [expansion * channels for channels in (8, 16, 32, 64)]
    sum(out.square().mean() for out in outputs).backward()
    assert not without_gradient(net)
    assert type(net.layer2.attention0) is CertifiedAttention2d
    assert type(net.layer2.attention1) is CouplingAttention2d
    assert net.layer4.attention0.attention.options.mode == 'l2'


def test_attention_behind_stages_inverts_within_its_bound():
    net = InvAttentionResNet(depth=18, attention=TWO_STAGES, **NARROW)
    images = torch.randn(2, 3, 64, 64)
    net(images)  # the normalisation starts from the first batch
    net.eval()  # returns nothing, in MMSegmentation's ResNets
    inverses = net.invert_attention(images)
    assert list(inverses) == ['layer2.attention0', 'layer2.attention1', 'layer4.attention0']
    for name in ('layer2.attention0', 'layer4.attention0'):
        seen, recovered, info = inverses[name]
        assert info.converged.all() and (max_token_norm(recovered - seen) <= info.error_bound).all()
    assert not any(module._forward_pre_hooks for module in net.modules())
    # the second attention of a stage sees what the first one made, and the stage ends with the last
    _, second, last = inverses.values()
    trunk = net.layer1(net.maxpool(net.stem(images)))
    for block in list(net.layer2)[:2]:
        trunk = block(trunk)
    torch.testing.assert_close(second.seen, net.layer2.attention0(trunk))
    torch.testing.assert_close(net(images)[3], net.layer4.attention0(last.seen))


@pytest.mark.parametrize('attention', [(), [dict(stage=2, form='none')]], ids=['no attention', 'ordinary'])
def test_pretrained_weights_load(attention, tmp_path):
    """A checkpoint of ResNetV1c-18: its features, since the ordinary block starts as the identity."""
    theirs = ResNetV1c(depth=18, **NARROW)
    theirs.init_weights()
    torch.save(theirs.state_dict(), tmp_path / 'resnet18_v1c.pth')
    ours = InvAttentionResNet(depth=18, attention=attention, pretrained=str(tmp_path / 'resnet18_v1c.pth'), **NARROW)
    ours.init_weights()
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=0)
    assert theirs.state_dict().keys() <= ours.state_dict().keys()


def test_whole_model_trains_from_a_config():
    """Pretrained weights are named at the segmentor, as in every config."""
    head = dict(
        type='FCNHead',
        in_channels=32,
        in_index=2,
        channels=8,
        num_convs=1,
        num_classes=3,
        align_corners=False,
        norm_cfg=NARROW['norm_cfg'],
    )
    backbone = dict(type='InvAttentionResNet', depth=18, attention=[dict(stage=2, num_blocks=2)], **NARROW)
    model = MODELS.build(
        Config(dict(model=dict(type='EncoderDecoder', pretrained=None, backbone=backbone, decode_head=head))).model
    )
    model.init_weights()
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 3, 2, 2)
    assert [type(layer) for layer in model.backbone.layer3.attention0] == [
        CertifiedAttention2d,
        OrthogonalConv1x1,
        CertifiedAttention2d,
    ]


def test_variants_of_resnet_by_argument():
    plain = InvAttentionResNet(depth=18, deep_stem=False, avg_down=True, **NARROW)
    assert plain.conv1.kernel_size == (7, 7) and plain.avg_down


@pytest.mark.parametrize(
    'entry, options, message',
    [
        (dict(stage=4), dict(), 'stage=4, but this network has the stages 0 to 3'),
        (dict(stage=-1), dict(), 'stage=-1, but this network has the stages 0 to 3'),
        (dict(), dict(), 'stage=None, but this network has the stages 0 to 3'),
        (dict(stage=3), dict(num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(0, 1)), 'the stages 0 to 1'),
        (dict(stage=0), dict(frozen_stages=1), 'lower frozen_stages to 0 or choose a later stage'),
        (dict(stage=0, num_blocks=0), dict(), 'num_blocks=0 is not a positive integer'),
        (dict(stage=0, form='exact'), dict(), "form='exact' is unknown"),
    ],
)
def test_errors_name_the_stage(entry, options, message):
    with pytest.raises(ValueError, match=message):
        InvAttentionResNet(depth=18, attention=[entry], **NARROW, **options)


def test_frozen_stages_stay_frozen_and_attention_learns():
    net = InvAttentionResNet(depth=18, attention=[dict(stage=1)], frozen_stages=1, **NARROW)
    net.train()
    sum(out.sum() for out in net(torch.randn(2, 3, 32, 32))).backward()
    assert all(p.grad is None for p in net.layer1.parameters()) and not without_gradient(net.layer2)
