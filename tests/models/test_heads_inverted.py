"""Every inverted head: gradients, inverse, and its ordinary counterpart in the same place."""

import subprocess
import sys
import traceback
from pathlib import Path

import pytest
import torch
from helpers.checkout import ROOT
from helpers.head_cases import COMMON, HEADS, build_head, features, labels, total_loss, without_gradient
from helpers.runtime_case import tool_environment, write_case
from helpers.tool_case import attention_config
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmseg.models.decode_heads import DAHead, DepthwiseSeparableASPPHead, FCNHead
from mmseg.models.decode_heads.da_head import CAM
from mmseg.registry import MODELS
from torch import nn

from mmseg_invattn.layers import (
    CertifiedAttention2d,
    InvChannelAttention,
    InvertibleSequential,
    NonLocalAttention2d,
    OrthogonalConv1x1,
)
from mmseg_invattn.models.attention import build_attention
from mmseg_invattn.ops import max_channel_norm, max_token_norm
from mmseg_invattn.ops.attention import softmax_attention


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmseg')
    torch.manual_seed(0)


@pytest.mark.parametrize('form', ['certified', 'conditional', 'coupling', 'paper', 'none'])
@pytest.mark.parametrize('name', HEADS)
def test_gradient_reaches_every_parameter(name, form):
    head = build_head(name, form=form).train()
    losses = head.loss(features(), labels(), {})
    total_loss(losses).backward()
    assert not without_gradient(head)
    assert losses.keys() == build_head(name, form='none').loss(features(), labels(), {}).keys()


@pytest.mark.parametrize('name', HEADS)
def test_attention_inverts_within_its_bound(name):
    head = build_head(name).train()
    inputs = features(3)
    head(inputs)  # the normalisation starts from the first batch
    seen, recovered, info = head.eval().invert_attention(inputs)
    assert seen.shape == (3, 8, 6, 6)
    assert info.converged.all() and (max_token_norm(recovered - seen) <= info.error_bound).all()
    torch.testing.assert_close(seen, head.attention_input(inputs))


@pytest.mark.parametrize('name', HEADS)
def test_logits_depend_on_the_attention_at_its_input(name):
    """What is inverted is what the logits come from: without the attention they are those of the head around it."""
    head = build_head(name).eval()
    inputs = features()
    seen = []
    head.attention.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    logits = head(inputs)
    head.attention = nn.Identity()
    without = head(inputs)
    torch.testing.assert_close(seen[0], head.attention_input(inputs))
    dual = name.startswith('da')
    pairs = zip(logits, without, strict=True) if dual else [(logits, without)]
    changed = [not torch.equal(a, b) for a, b in pairs]
    assert changed == ([True, True, False] if dual else [True])


def parameters_left(head: nn.Module) -> dict:
    return {k: v for k, v in head.state_dict().items() if not k.startswith(('attention.', 'channel_attention.'))}


@pytest.mark.parametrize('name', ['aspp', 'sep_aspp', 'psp', 'fcn'])
def test_ordinary_form_starts_as_the_head_of_mmseg(name):
    """The ordinary block starts as the identity: the same logits as MMSegmentation's head without attention."""
    ours = build_head(name, form='none').eval()
    arguments = {k: v for k, v in HEADS[name].items() if k != 'num_blocks'}
    theirs = MODELS.build(COMMON | arguments | dict(type=ours.__class__.__name__.removeprefix('Inv'))).eval()
    theirs.load_state_dict(parameters_left(ours))
    inputs = features()
    torch.testing.assert_close(ours(inputs), theirs(inputs))


def test_ordinary_dual_attention_starts_as_danet():
    ours = build_head('da', form='none').eval()
    assert type(ours.channel_attention) is CAM
    theirs = DAHead(pam_channels=2, **COMMON).eval()
    theirs.load_state_dict(parameters_left(ours), strict=False)  # both of its gammas start at 0
    inputs, samples = features(), labels()
    for a, b in zip(ours(inputs), theirs(inputs), strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(ours.loss(inputs, samples, {}), theirs.loss(inputs, samples, {}))
    metas = [dict(img_shape=(12, 12))] * 2
    torch.testing.assert_close(ours.predict(inputs, metas, {}), theirs.predict(inputs, metas, {}))


def test_channel_attention_of_the_dual_head_inverts():
    head = build_head('da', channel_attention=dict(contraction=0.8, sharpness=3.0)).train()
    assert type(head.channel_attention) is InvChannelAttention and head.channel_attention.contraction == 0.8
    inputs = features(3)
    head(inputs)
    seen, recovered, info = head.eval().invert_channel_attention(inputs)
    torch.testing.assert_close(seen, head.cam_in_conv(inputs[1]))
    assert info.converged.all() and (max_channel_norm(recovered - seen) <= info.error_bound).all()


def test_ordinary_attention_has_no_inverse():
    for name in HEADS:
        kind = 'Sequential' if name.startswith('fcn') else 'NonLocalAttention2d'
        with pytest.raises(TypeError, match=f"^{kind} has no inverse: build the attention with form='certified'"):
            build_head(name, form='none').invert_attention(features())
    with pytest.raises(TypeError, match='^CAM has no inverse'):
        build_head('da', form='none').invert_channel_attention(features())
    with pytest.raises(ValueError, match="'contraction': 0.8.*DANet's own is used: leave channel_attention out"):
        build_head('da', form='none', channel_attention=dict(contraction=0.8))


def test_head_without_a_skip_takes_any_c1_channels():
    """MMSegmentation's head counts c1_channels that nobody gives."""
    arguments = COMMON | dict(dilations=(1, 3), c1_in_channels=0, c1_channels=2)
    with pytest.raises(RuntimeError):
        DepthwiseSeparableASPPHead(**arguments)(features())
    assert build_head('sep_aspp_no_skip')(features()).shape == (2, 3, 6, 6)
    assert build_head('sep_aspp')(features()).shape == (2, 3, 12, 12)
    with pytest.raises(ValueError, match='c1_in_channels=-1 is negative'):
        build_head('sep_aspp', c1_in_channels=-1)


@pytest.mark.parametrize('name', ['skip', 'da_skip'])
def test_skip_sharpens_the_logits(name):
    """They have the size of the first features and depend on them; the attention does not."""
    head = build_head(name, form='none').eval()
    inputs = features()
    logits = head(inputs)
    if name == 'da_skip':
        logits, *branches = logits
        assert [branch.shape for branch in branches] == [(2, 3, 6, 6)] * 2
    assert logits.shape == (2, 3, 12, 12)
    seen = head.attention_input(inputs)
    inputs[0] += 1
    assert torch.equal(head.attention_input(inputs), seen)
    changed = head(inputs)
    assert not torch.equal(changed[0] if name == 'da_skip' else changed, logits)


def test_skip_needs_its_channels():
    for name, wrong in (('skip', dict(c1_in_channels=0)), ('da', dict(c1_channels=2)), ('da', dict(c1_in_channels=4))):
        with pytest.raises(ValueError, match='must both be positive: give the number of channels of inputs.0.'):
            build_head(name, **wrong)


@pytest.mark.parametrize('name', ['skip', 'nl', 'sep_aspp'])
def test_no_blocks_are_the_control_without_attention(name):
    """The ordinary block starts as the identity: the same weights give the same logits, and nothing is left of it."""
    control, ordinary = build_head(name, num_blocks=0).eval(), build_head(name, form='none').eval()
    ordinary.load_state_dict(control.state_dict(), strict=False)
    assert control.state_dict().keys() == parameters_left(control).keys() == parameters_left(ordinary).keys()
    inputs = features()
    torch.testing.assert_close(control(inputs), ordinary(inputs))
    with pytest.raises(TypeError, match='Identity has no inverse'):
        control.invert_attention(inputs)


def test_size_of_the_position_attention():
    for head in (build_head('da', pam_channels=2), build_head('da', attention=dict(reduction=4))):
        assert head.attention.attention.mode.query.weight.shape == (1, 2, 8)
    with pytest.raises(ValueError, match='pam_channels=3 does not divide channels=8'):
        build_head('da', pam_channels=3)
    with pytest.raises(ValueError, match='pam_channels=2 needs reduction=4, but attention has reduction=2'):
        build_head('da', pam_channels=2, attention=dict(reduction=2))
    with pytest.raises(ValueError, match='set reduction=4 in each of its configs'):
        build_head('da', pam_channels=2, attention=[dict()])


def test_blocks_in_a_row():
    stack = build_attention(8, ConfigDict(mode='l2'), num_blocks=3)
    assert type(stack) is InvertibleSequential and [type(layer) for layer in stack] == [
        CertifiedAttention2d,
        OrthogonalConv1x1,
        CertifiedAttention2d,
        OrthogonalConv1x1,
        CertifiedAttention2d,
    ]
    assert all(block.attention.options.mode == 'l2' for block in stack[::2]) and 0 < stack.lipschitz_bound() < 1
    channels = build_attention(8, dict(type='InvChannelAttention'), num_blocks=2)
    assert [type(layer) for layer in channels] == [InvChannelAttention, OrthogonalConv1x1, InvChannelAttention]
    ordinary = build_attention(8, dict(form='none'), num_blocks=3)
    assert type(ordinary) is nn.Sequential and [type(layer) for layer in ordinary] == [NonLocalAttention2d] * 3
    listed = build_attention(8, [dict(form='coupling'), dict(type='InvChannelAttention')])
    assert type(listed) is InvertibleSequential and len(listed) == 2 and type(listed[1]) is InvChannelAttention
    assert type(build_attention(8, [dict(), dict(form='none')])) is nn.Sequential
    dual = build_attention(8, [dict(type='InvChannelAttention'), dict(form='certified')])
    assert [type(layer) for layer in dual] == [InvChannelAttention, CertifiedAttention2d]
    assert 0 < dual.lipschitz_bound() < 1


@pytest.mark.parametrize(
    'attention, num_blocks, message',
    [
        (dict(), -1, 'num_blocks=-1 is not a positive integer'),
        ([], 1, 'has no block'),
        ([dict()], 2, 'leave num_blocks out and list all blocks'),
        ([dict(type='InvChannelAttention'), dict()], 2, 'leave num_blocks out and list all blocks'),
    ],
)
def test_rows_name_what_is_wrong(attention, num_blocks, message):
    with pytest.raises(ValueError, match=message):
        build_head('fcn', attention=attention, num_blocks=num_blocks)


@pytest.mark.parametrize('attention', ['certified', 3, ['certified'], [None, 3]])
def test_attention_that_is_no_config_is_named(attention):
    with pytest.raises(TypeError, match=r"('certified'|3).*write .*dict\(form='certified'\)"):
        build_attention(8, attention)


TAKEN = (
    'it takes in_channels, precision, mode, reduction, num_heads, bias, '
    'position, position_size, key_pooling, neighbourhood, window_size, window_shift'
)


def test_an_argument_that_the_form_does_not_take_is_named():
    with pytest.raises(TypeError, match=f"^CouplingAttention2d takes no argument 'contraction': {TAKEN}$"):
        build_head('nl', form='coupling', attention=dict(contraction=0.9))
    with pytest.raises(TypeError, match=r"'num_head' \(did you mean 'num_heads'\?\): it takes in_channels, con"):
        build_head('nl', attention=dict(num_head=2))


@pytest.mark.slow
def test_the_training_tool_names_it_too(tmp_path):
    """As a user sees it: the last line of what the program says."""
    config = attention_config(tmp_path, write_case(tmp_path), form='coupling', contraction=0.9)
    done = subprocess.run(
        [sys.executable, ROOT / 'tools' / 'train.py', config, '--work-dir', tmp_path / 'work'],
        env=tool_environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode and "CouplingAttention2d takes no argument 'contraction'" in last and TAKEN in last


@pytest.mark.parametrize('name', ['nl', 'fcn', 'psp', 'aspp'])
def test_few_frames_from_a_head_to_its_kernel(name, monkeypatch):
    """A debugger gets from the head to the kernel, itself included, through 5 functions of this package."""
    head = build_head(name, num_blocks=1).eval()
    mode, found = head.attention.attention.mode, []
    kernel = mode.attend
    assert kernel is softmax_attention

    def attend(*args, **kwargs):
        frames = [Path(frame.filename) for frame in traceback.extract_stack()]
        found.append(1 + sum((ROOT / 'mmseg_invattn') in path.parents for path in frames))
        return kernel(*args, **kwargs)

    monkeypatch.setattr(mode, 'attend', attend)
    head(features())
    assert len(found) == 1 and 3 <= found[0] <= 5


def test_three_blocks_in_a_row_learn():
    head = build_head('fcn', num_blocks=3).train()
    assert isinstance(head, FCNHead)
    inputs, samples = features(), labels()
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    losses = []
    for _ in range(15):
        loss = total_loss(head.loss(inputs, samples, {}))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert head.attention.lipschitz_bound() < 1


@pytest.mark.parametrize('form', ['certified', 'none'])
@pytest.mark.parametrize('name', HEADS)
def test_half_precision_trains_and_inverts(name, form):
    """Under autocast the features are bfloat16; certificate and inverse are those of float32."""
    head = build_head(name, form=form).train()
    inputs = features()
    with torch.autocast('cpu', torch.bfloat16):
        total_loss(head.loss(inputs, labels(), {})).backward()
    assert not without_gradient(head)
    if form == 'certified':
        with torch.autocast('cpu', torch.bfloat16):
            seen, recovered, info = head.eval().invert_attention(inputs)
        assert recovered.dtype == torch.float32
        assert info.converged.all() and (max_token_norm(recovered - seen) <= info.error_bound).all()
