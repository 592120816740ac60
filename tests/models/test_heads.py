"""Heads and backbone as MMSegmentation builds and runs them."""

import pytest
import torch
from helpers.checkout import ROOT
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.models.decode_heads import NLHead
from mmseg.registry import MODELS

from mmseg_invattn.models import InvNLHead, PlainConvNet
from mmseg_invattn.ops import max_token_norm

DEMO = ROOT / 'configs' / 'demo' / 'fcn_plainconv_1xb8-1k_context-shapes-48x96.py'
HEAD = dict(
    in_channels=8,
    in_index=0,
    channels=8,
    num_classes=3,
    dropout_ratio=0,
    norm_cfg=None,
    align_corners=False,
    loss_decode=dict(type='CrossEntropyLoss'),
)


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmseg')


@pytest.mark.parametrize('concat_input', [True, False])
def test_ordinary_form_is_mmseg_nl_head(concat_input):
    """``form='none'`` in the head gives NLHead's logits for the same weights."""
    torch.manual_seed(0)
    theirs = NLHead(**HEAD, concat_input=concat_input, reduction=2).double()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    ours = InvNLHead(**HEAD, concat_input=concat_input, attention=dict(form='none', reduction=2)).double()
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith('nl_block.')}
    block, prefix = theirs.nl_block, 'attention.branch.'
    names = {name.rpartition('.')[0].removeprefix(prefix) for name in ours.state_dict() if name.startswith(prefix)}
    query = next(n for n in names if n.endswith('query'))
    key = next(n for n in names if n.endswith('key'))
    for name, conv in ((query, block.theta), (key, block.phi), ('value', block.g)):
        state[f'{prefix}{name}.weight'] = conv.conv.weight[None, :, :, 0, 0]
        state[f'{prefix}{name}.bias'] = conv.conv.bias[None]
    state[f'{prefix}out.weight'] = block.conv_out.conv.weight[None, :, :, 0, 0]
    state[f'{prefix}bias.vector'] = block.conv_out.conv.bias
    ours.load_state_dict(state)
    features = [torch.randn(2, 8, 6, 7, dtype=torch.float64)]
    torch.testing.assert_close(ours(features), theirs(features), rtol=1e-12, atol=1e-12)


def test_attention_in_the_head_inverts():
    torch.manual_seed(1)
    head = InvNLHead(**HEAD, attention=dict(sharpness=4.0)).train()
    features = [torch.randn(3, 8, 6, 7) * 5]
    head(features)  # the normalisation starts from the first batch
    head.eval()
    seen, recovered, info = head.invert_attention(features)
    torch.testing.assert_close(seen, head.convs[0](features[0]))
    torch.testing.assert_close(
        head(features), head.cls_seg(head.conv_cat(torch.cat([features[0], head.convs[1](head.attention(seen))], 1)))
    )
    assert info.converged.all() and (max_token_norm(recovered - seen) <= info.error_bound).all()
    with pytest.raises(TypeError, match='NonLocalAttention2d has no inverse'):
        InvNLHead(**HEAD, attention=dict(form='none')).invert_attention(features)


def test_head_names_what_is_wrong():
    with pytest.raises(ValueError, match="form='exact' is unknown"):
        InvNLHead(**HEAD, attention=dict(form='exact'))
    with pytest.raises(ValueError, match='in_channels=8 is not a multiple'):
        InvNLHead(**HEAD, attention=dict(reduction=3))


@pytest.mark.parametrize('strides', [(2, 2), (2, 2, 1, 1), (1,)])
def test_receptive_field_is_exact(strides):
    net = PlainConvNet(channels=4, strides=strides)
    for parameter in net.parameters():
        torch.nn.init.ones_(parameter)  # no ReLU is ever off
    image = torch.ones(1, 3, 96, 96, requires_grad=True)
    (out,) = net(image)
    out[0, 0, out.shape[2] // 2, out.shape[3] // 2].backward()
    seen = image.grad.abs().sum((0, 1, 2)) > 0
    assert int(seen.sum()) == net.receptive_field


def test_demo_network_cannot_see_the_marker():
    """Without attention: backbone, two convolutions of the head, and the resize reach less than the distance."""
    cfg = Config.fromfile(DEMO)
    model = MODELS.build(cfg.model).eval()
    image = torch.randn(1, 3, 48, 96, requires_grad=True)
    logits = model.decode_head.predict(model.extract_feat(image), [dict(img_shape=(48, 96))], {})
    logits[0, :, 24, 0].sum().backward()
    reach = int((image.grad.abs().sum((0, 1, 2)) > 0).nonzero().max())
    assert 0 < reach < 44
