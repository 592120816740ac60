"""What tools/invert.py writes: figures, and numbers that are those of the inverse."""

import json

import cv2
import numpy as np
import pytest
import torch
from helpers.view_cases import run_tool, write_model

from mmseg_invattn.engine.inference import init_model
from mmseg_invattn.experiments.invert.figure import feature_colours, image_colours
from mmseg_invattn.experiments.invert.inversion import inversions
from mmseg_invattn.ops import max_token_norm
from mmseg_invattn.visualization.model_input import read_image

FCN = dict(type='FCNHead', num_convs=1, concat_input=False)
RESNET = dict(type='InvResNet', strides=(2, 2), out_indices=(1,), stage_blocks=(1, 1), hidden_channels=(6, 6))
MODELS = {
    'head': (dict(type='InvNLHead', concat_input=False), ['decode_head.attention']),
    'stack': (dict(type='InvNLHead', concat_input=False, num_blocks=2), ['decode_head.attention']),
    'coupling': (
        dict(type='InvNLHead', concat_input=False, attention=dict(form='coupling')),
        ['decode_head.attention'],
    ),
    'dual': (dict(type='InvDAHead'), ['decode_head.attention', 'decode_head.channel_attention']),
    'resnet': (FCN | dict(in_channels=48, backbone=RESNET), ['backbone']),
    'revnet': (FCN | dict(in_channels=48, backbone=RESNET | dict(type='RevNet2d')), ['backbone']),
}


@pytest.mark.parametrize('name', MODELS)
def test_report_and_figures(tmp_path, capsys, name):
    head, names = MODELS[name]
    config, checkpoint, image = write_model(tmp_path, dict(head))
    out = tmp_path / 'out' / 'inverse'
    assert run_tool('invert', config, checkpoint, image, '--out', out, '--device', 'cpu', '--tol', '1e-5') == 0
    report = json.loads((out / 'inverse.json').read_text())
    assert [inverse['name'] for inverse in report['inverses']] == names
    printed = capsys.readouterr().out
    for inverse in report['inverses']:
        assert inverse['converged'] and inverse['error'] <= inverse['error_bound']
        assert (inverse['lipschitz_bound'] is None) == (name in ('coupling', 'revnet'))  # these need no contraction
        assert name != 'resnet' or 0 < inverse['lipschitz_bound'] <= 0.5 * (1 + 1e-5)
        curve = inverse['curve']
        assert curve[-1]['error'] == inverse['error'] and curve[-1]['error_bound'] == inverse['error_bound']
        assert all(point['error'] <= point['error_bound'] for point in curve)
        assert [point['evaluations'] for point in curve] == list(range(1, len(curve) + 1))
        if name not in ('coupling', 'revnet'):  # these need no iteration
            assert len(curve) > 1 and curve[0]['error'] > 10 * curve[-1]['error']
        figure = cv2.imread(str(out / f'{inverse["name"]}.png'))
        assert figure.shape[1] == 1440 and figure.std() > 10
        assert f'certified bound {inverse["error_bound"]:.1e}' in printed


def test_numbers_are_those_of_the_head(tmp_path):
    config, checkpoint, image = write_model(tmp_path, dict(MODELS['head'][0]))
    model = init_model(config, checkpoint, 'cpu')
    pixels = read_image(model, image)[1]
    (inversion,) = inversions(model, pixels)
    seen, recovered, info = model.decode_head.invert_attention(model.extract_feat(pixels))
    assert torch.equal(inversion.seen, seen) and torch.equal(inversion.recovered, recovered)
    assert inversion.error == float(max_token_norm(recovered - seen)) and inversion.iterations == int(info.iterations)
    assert inversion.error_bound == float(info.error_bound) and not inversion.is_image


def test_colours_of_an_image_are_its_pixels(tmp_path):
    """The picture before is the file, and the recovered picture differs by at most one grey level."""
    head, _ = MODELS['resnet']
    config, checkpoint, image = write_model(tmp_path, dict(head))
    model = init_model(config, checkpoint, 'cpu')
    picture, pixels = read_image(model, image)
    (inversion,) = inversions(model, pixels)
    before, after = image_colours(inversion, model)
    assert inversion.is_image and np.array_equal(before.numpy(), picture)
    assert np.array_equal(picture, cv2.imread(image)[..., ::-1])
    assert (after.int() - before.int()).abs().max() <= 1


def test_features_with_few_channels_have_colours():
    x = torch.randn(1, 2, 4, 5)
    (colours, same) = feature_colours(x, x.clone())
    assert colours.shape == (4, 5, 3) and torch.equal(colours, same) and colours[..., 2].eq(0).all()


def test_an_inverse_that_does_not_converge_is_reported(tmp_path, capsys):
    config, checkpoint, image = write_model(tmp_path, dict(MODELS['head'][0]))
    assert run_tool('invert', config, checkpoint, image, '--out', tmp_path, '--max-iter', 1, '--device', 'cpu') == 1
    (inverse,) = json.loads((tmp_path / 'inverse.json').read_text())['inverses']
    assert not inverse['converged'] and len(inverse['curve']) == 1
    assert 'NOT converged' in capsys.readouterr().out


def test_form_paper_has_no_bound(tmp_path, capsys):
    head = dict(type='InvNLHead', concat_input=False, attention=dict(form='paper'))
    config, checkpoint, image = write_model(tmp_path, head)
    run_tool('invert', config, checkpoint, image, '--out', tmp_path / 'out', '--device', 'cpu')
    (inverse,) = json.loads((tmp_path / 'out' / 'inverse.json').read_text())['inverses']
    assert inverse['error_bound'] is None and inverse['curve'][0]['error_bound'] is None
    assert 'no certified bound' in capsys.readouterr().out


def test_refusals(tmp_path, capsys):
    config, checkpoint, image = write_model(tmp_path, dict(FCN))
    out = tmp_path / 'out'
    with pytest.raises(ValueError, match='uses no part that has an inverse.*RevNet2d.*invertible layers'):
        run_tool('invert', config, checkpoint, image, '--out', out)
    with pytest.raises(FileNotFoundError, match='no such image'):
        run_tool('invert', config, checkpoint, tmp_path / 'none.png', '--out', out)
    out.mkdir()
    (out / 'inverse.json').write_text('{}')
    with pytest.raises(FileExistsError, match='--overwrite'):
        run_tool('invert', config, checkpoint, image, '--out', out)
    for arguments in (('--max-iter', '0'), ('--tol', '2')):
        with pytest.raises(SystemExit):
            run_tool('invert', config, checkpoint, image, *arguments)
        assert arguments[0] in capsys.readouterr().err
