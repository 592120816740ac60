"""Tools that run a model on a whole image warn if its predictions use sliding windows."""

import json

import torch
from helpers.tiny_segmentor import build_segmentor
from helpers.view_cases import run_tool, write_model

from mmseg_invattn.engine.windows import windows_note


def test_how_many_windows_the_model_uses():
    model = build_segmentor(test_cfg=dict(mode='slide', crop_size=(16, 16), stride=(10, 6))).eval()
    for size in ((16, 16), (10, 12), (17, 16), (36, 40)):
        calls = []
        handle = model.backbone.register_forward_hook(lambda *args, calls=calls: calls.append(1))
        image = torch.zeros(1, 3, *size)
        with torch.no_grad():
            model.inference(image, [dict(img_shape=size, pad_shape=size, ori_shape=size)])
        handle.remove()
        note = windows_note(model, image)
        assert note is None if len(calls) == 1 else f'in {len(calls)} windows of 16 x 16' in note
    model.test_cfg = dict(mode='whole')
    assert windows_note(model, torch.zeros(1, 3, 99, 99)) is None


def test_explorer_and_inverse_say_it(tmp_path, capsys):
    config, checkpoint, image = write_model(tmp_path, dict(type='InvNLHead', concat_input=False))
    slide = ['--cfg-options', 'model.test_cfg.mode=slide']
    slide += ['+model.test_cfg.crop_size=(16,16)', '+model.test_cfg.stride=(8,8)']
    for options in (slide, []):
        page, folder = tmp_path / f'{len(options)}.html', tmp_path / f'{len(options)}'
        run_tool('explore_attention', config, checkpoint, image, '--out', page, '--device', 'cpu', *options)
        run_tool('invert', config, checkpoint, image, '--out', folder, '--device', 'cpu', *options)
        said = 'NOT WHAT THE PREDICTION SEES'
        assert capsys.readouterr().out.count(said) == (2 if options else 0)
        assert (said in page.read_text()) == (json.loads((folder / 'inverse.json').read_text())['windows'] is not None)
        assert (said in page.read_text()) == bool(options)
