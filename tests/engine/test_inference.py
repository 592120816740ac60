"""MMSegmentation's inference on models with invertible attention: inferencer, sliding windows, large images."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.checkout import ROOT
from helpers.runtime_case import run_tool, tool_environment, write_case
from helpers.tiny_segmentor import build_segmentor
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from mmseg_invattn.layers.attention.modes import MODES


def test_inferencer_takes_a_config_by_path():
    from mmseg.apis import MMSegInferencer

    config = str(ROOT / 'configs' / 'demo' / 'invnl_plainconv_1xb8-1k_context-shapes-48x96.py')
    inferencer = MMSegInferencer(model=config, device='cpu')
    image = np.random.default_rng(0).integers(0, 256, (48, 96, 3), dtype=np.uint8)
    result = inferencer(image, return_vis=True)
    assert result['predictions'].shape == (48, 96) and result['predictions'].max() < 3
    assert result['visualization'].shape[-1] == 3


def test_inferencer_finds_no_names_but_those_of_mmseg():
    from mmseg.apis import MMSegInferencer

    with pytest.raises(ValueError, match='Cannot find model'):
        MMSegInferencer(model='invnl_plainconv_1xb8-1k_context-shapes-48x96', device='cpu')


def test_test_time_augmentation_of_an_inverted_head(tmp_path):
    config = tmp_path / 'config.py'
    config.write_text(f"""
_base_ = '{write_case(tmp_path)}'
model = dict(decode_head=dict(_delete_=True, type='InvNLHead', in_channels=8, channels=8, num_classes=3,
                              dropout_ratio=0, norm_cfg=dict(type='GN', num_groups=2), align_corners=False,
                              loss_decode=dict(type='CrossEntropyLoss'), attention=dict(form='certified')))
""")
    init_default_scope('mmseg')
    torch.manual_seed(1)
    weights = {
        name: torch.randn_like(w) if w.is_floating_point() else w
        for name, w in MODELS.build(Config.fromfile(config).model).state_dict().items()
    }
    torch.save(dict(state_dict=weights, meta={}), tmp_path / 'weights.pth')
    scores = []
    for name, arguments in (('tta', ['--tta']), ('plain', [])):
        run_tool('test', config, tmp_path / 'weights.pth', '--work-dir', tmp_path / name, *arguments)
        scores.append(json.loads(next((tmp_path / name).glob('*/*.json')).read_text())['aAcc'])
    assert scores[0] != scores[1] and all(0 < score < 100 for score in scores)


def test_windows_that_hold_the_image_give_what_the_whole_image_gives():
    torch.manual_seed(0)
    model = build_segmentor(test_cfg=dict(mode='slide', crop_size=(16, 16), stride=(8, 8))).eval()

    def both(size):
        image = torch.randn(1, 3, *size)
        # a list for each: sliding windows write their own size into it
        metas = [[dict(img_shape=size, pad_shape=size, ori_shape=size)] for _ in range(2)]
        return model.inference(image, metas[0]), model.whole_inference(image, metas[1])

    with torch.no_grad():
        torch.testing.assert_close(*both((16, 16)))
        slid, whole = both((40, 56))
    assert slid.shape == whole.shape == (1, 3, 40, 56) and slid.isfinite().all()
    assert not torch.allclose(slid, whole)  # a window sees its own pixels only


@pytest.mark.slow
@pytest.mark.parametrize('form', ['certified', 'none'])
@pytest.mark.parametrize('mode', MODES)
def test_memory_of_a_large_image(mode, form):
    """As many tokens as 1024 x 2048 pixels have at stride 8, N = 32768, whose float32 map alone would be 4 GiB."""
    script = f"""
import resource, sys
sys.path.insert(0, {str(ROOT / 'tests')!r})
import torch
from helpers.tiny_segmentor import build_segmentor
torch.set_num_threads(1)
model = build_segmentor(dict(mode={mode!r}, form={form!r})).eval()
size = (256, 512)
meta = [dict(img_shape=size, pad_shape=size, ori_shape=size)]
image = torch.randn(1, 3, *size)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with torch.no_grad():
    logits = model.inference(image, meta)
assert logits.shape == (1, 3, *size) and bool(logits.isfinite().all())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', script], env=tool_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    n = 128 * 256
    assert int(done.stdout.split()[-1]) * 1024 < n * n * 4 / 8  # KiB -> bytes; the map is 4 GiB
