"""Tools read images as the tested data set does, keep their sub-folders, and know heads of one channel."""

import json

import cv2
import numpy as np
import pytest
from helpers.runtime_case import run_tool, write_case
from helpers.tested_case import (
    KINDS,
    balance,
    config_of,
    one_channel_config,
    write_images_of,
    write_sub_folders,
    write_two_labels,
)
from helpers.tool_case import call_tool, write_weights
from mmengine.config import Config

from mmseg_invattn.datasets.pictures import to_picture
from mmseg_invattn.engine.inference import init_model, random_image
from mmseg_invattn.engine.tested_pipeline import TestedPipeline


@pytest.fixture(scope='module')
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp('tested')
    return folder, write_case(folder)


def labels_in(folder, suffix=''):
    """The label files below a folder, by their path."""
    files = sorted(folder.rglob(f'*{suffix}.png'))
    return {str(file.relative_to(folder)).removesuffix(f'{suffix}.png'): cv2.imread(str(file), -1) for file in files}


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name, labels in expected.items():
        assert labels.dtype == found[name].dtype and (labels == found[name]).all(), name


@pytest.mark.parametrize(
    'kind', [pytest.param(kind, marks=pytest.mark.slow if kind in ('grey', 'deep_colour') else ()) for kind in KINDS]
)
def test_predict_sees_what_the_test_sees(case, tmp_path, kind):
    folder, base = case
    images, config = write_images_of(folder, kind), config_of(folder, base, kind)
    weights = write_weights(config, tmp_path / 'weights.pth')
    balance(init_model(config, str(weights), 'cpu'), images / '0.png', weights)
    show = tmp_path / 'show'
    run_tool('test', config, weights, '--work-dir', tmp_path / 'work', '--out', tmp_path / 'tested', '--show-dir', show)
    assert call_tool('predict', config, weights, images, '--out', tmp_path / 'seen') == 0
    tested = labels_in(tmp_path / 'tested')
    seen = {name: labels for name, labels in labels_in(tmp_path / 'seen', '_labels').items() if name in tested}
    assert len(tested) == 4 and len(np.unique(tested['0'])) > 1
    assert_same(seen, tested)
    overlay = cv2.imread(str(tmp_path / 'seen' / '0_overlay.png'))
    painted = [cv2.imread(str(path)) for path in show.rglob('*.png')]
    assert len(painted) == 4 and all(picture.std() > 10 for picture in painted)
    assert overlay[:28, :28].std() > 10  # neither black nor white, whatever the values of the image


@pytest.mark.parametrize(
    'kind', ['four', *(pytest.param(kind, marks=pytest.mark.slow) for kind in ('grey', 'deep', 'deep_colour'))]
)
def test_other_tools_read_such_images(case, tmp_path, kind):
    folder, base = case
    image, config = write_images_of(folder, kind) / '0.png', config_of(folder, base, kind)
    weights = write_weights(config, tmp_path / 'weights.pth')
    assert call_tool('explore_attention', config, weights, image, '--out', tmp_path / 'page.html') is None
    call_tool('invert', config, weights, image, '--out', tmp_path / 'inverse')
    model = init_model(config, str(weights), 'cpu')
    assert random_image(model).shape[1] == KINDS[kind][0]


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
def test_an_export_of_such_a_model(case, tmp_path, capsys, kind):
    folder, base = case
    image, config = write_images_of(folder, kind) / '0.png', config_of(folder, base, kind)
    weights = write_weights(config, tmp_path / 'weights.pth')
    export = ('--format', 'torch_export', '--image', image, '--out', tmp_path / 'model.pt2')
    assert call_tool('export', config, weights, *export) == 0
    assert f'float32 images (batch, {KINDS[kind][0]}, 32, 32)' in capsys.readouterr().out


def test_an_image_of_another_kind_is_named(case, tmp_path, capsys):
    folder, base = case
    config = config_of(folder, base, 'four')
    weights = write_weights(config, tmp_path / 'weights.pth')
    image = folder / 'data' / 'images' / '0.png'
    assert call_tool('predict', config, weights, image, '--out', tmp_path / 'seen') == 1
    assert (
        '0.png: the pipeline of the test data loads it with 3 channels, but the model takes 4'
        in capsys.readouterr().err
    )


def test_pictures_of_any_image():
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert (to_picture(grey) == np.repeat(grey[..., None], 3, 2)).all()
    colour = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    assert (to_picture(colour) == colour[..., ::-1]).all() and (
        to_picture(colour.astype(np.float32)) == to_picture(colour)
    ).all()
    deep = np.array([[1000, 2000, np.nan]])
    assert to_picture(deep)[0, :, 0].tolist() == [0, 255, 0]
    assert to_picture(np.array([[0.0, 0.5, 1.0]]))[0, :, 0].tolist() == [0, 128, 255]
    assert to_picture(np.zeros((2, 2, 7), np.uint16)).shape == (2, 2, 3)


def test_a_pipeline_that_reads_no_image():
    def pipeline(*steps, **config):
        return TestedPipeline(Config(dict(test_dataloader=dict(dataset=dict(pipeline=list(steps))), **config)))

    with pytest.raises(ValueError, match='the config has no pipeline to read an image with'):
        TestedPipeline(Config(dict(model=dict(type='EncoderDecoder'))))
    with pytest.raises(ValueError, match=r'\(NoSuchTransform\)|NoSuchTransform'):
        pipeline(dict(type='NoSuchTransform'))
    with pytest.raises(ValueError, match='must begin with a transform that loads the image'):
        pipeline(dict(type='SeedTransforms'))(__file__)
    with pytest.raises(ValueError, match='RandomFlip.*fails with KeyError'):
        pipeline(dict(type='RandomFlip', prob=1.0))(__file__)


def test_sub_folders_are_kept(case, tmp_path):
    folder, config = case
    root = write_sub_folders(folder)
    weights = write_weights(config, tmp_path / 'weights.pth')
    root_option = f'test_dataloader.dataset.data_root={root}'
    run_tool(
        'test', config, weights, '--work-dir', tmp_path / 'work', '--out', tmp_path / 'tested', options=(root_option,)
    )
    out = root / 'images' / 'seen'  # inside of the images: it does not count
    for _ in range(2):
        assert call_tool('predict', config, weights, root / 'images', '--out', out, '--overwrite') == 0
    tested = labels_in(tmp_path / 'tested')
    assert set(tested) == {'a/0', 'a/1', 'b/0', 'b/1'} and (tested['a/0'] != tested['b/0']).any()
    assert_same(labels_in(out, '_labels'), tested)
    with pytest.raises(ValueError, match='is the folder of the images'):
        call_tool('predict', config, weights, root / 'images', '--out', root / 'images')


def test_label_files_count_as_those_of_the_data(case, tmp_path, capsys):
    folder, config = case
    weights = write_weights(config, tmp_path / 'weights.pth')
    option = ('+test_dataloader.dataset.reduce_zero_label=True',)
    run_tool('test', config, weights, '--work-dir', tmp_path / 'work', '--out', tmp_path / 'tested', options=option)
    images = folder / 'data' / 'images'
    call_tool('predict', config, weights, images, '--out', tmp_path / 'seen', '--cfg-options', *option)
    tested = labels_in(tmp_path / 'tested')
    seen = labels_in(tmp_path / 'seen', '_labels')
    assert_same({name: seen[name] for name in tested}, tested)
    assert np.unique(tested['0']).min() >= 1 and 'labels count from 1' in capsys.readouterr().out


@pytest.mark.parametrize(
    'head',
    [
        'FCNHead',
        *(pytest.param(f'Inv{name}Head', marks=pytest.mark.slow) for name in ('NL', 'DA', 'FCN', 'PSP', 'ASPP')),
    ],
)
def test_one_channel_of_logits(case, tmp_path, head):
    """A test, one with augmentations that change nothing, one in a window as large as the image, and predict agree."""
    folder, base = case
    if not (folder / 'data' / 'two').exists():
        write_two_labels(folder)
    config = one_channel_config(folder, base, head)
    weights = write_weights(config, tmp_path / 'weights.pth')
    model = init_model(config, str(weights), 'cpu')
    balance(model, folder / 'data' / 'images' / '0.png', weights, -0.85)
    runs = {
        'plain': ((), ()),
        'tta': (('--tta',), ()),
        'slide': (
            (),
            ('model.test_cfg.mode=slide', '+model.test_cfg.crop_size=(28,28)', '+model.test_cfg.stride=(9,9)'),
        ),
    }
    scores, labels = {}, {}
    for name, (arguments, options) in runs.items():
        out = tmp_path / name
        run_tool('test', config, weights, '--work-dir', out / 'work', '--out', out / 'out', *arguments, options=options)
        scores[name] = json.loads(next((out / 'work').glob('*/*.json')).read_text())['mIoU']
        labels[name] = labels_in(out / 'out')
    assert scores['plain'] == scores['tta'] == scores['slide'] > 10
    assert_same(labels['tta'], labels['plain'])
    assert_same(labels['slide'], labels['plain'])
    assert call_tool('predict', config, weights, folder / 'data/images/0.png', '--out', tmp_path, '--confidence') == 0
    seen = cv2.imread(str(tmp_path / '0_labels.png'), -1)
    assert (seen == labels['plain']['0']).all() and set(np.unique(seen)) == {0, 1}
    confidence = cv2.imread(str(tmp_path / '0_confidence.png'), -1) / 255
    assert 0.29 < confidence[seen == 1].min() < 0.5 and confidence[seen == 0].min() > 0.69  # of the class chosen


def test_data_sets_that_are_read_in_several_ways(case, capsys):
    folder, config = case
    cfg = Config.fromfile(config)
    first = cfg.test_dataloader.dataset
    other = dict(first, pipeline=[dict(type='LoadImageFromFile', to_float32=True), dict(type='PackSegInputs')])
    for datasets, warned in (([first, other], True), ([first, dict(first)], False)):
        cfg.test_dataloader.dataset = dict(type='ConcatDataset', datasets=datasets)
        loaded = TestedPipeline(cfg)(folder / 'data' / 'images' / '0.png')
        assert loaded.image.dtype == np.uint8 and loaded.inputs.shape == (3, 28, 28)
        assert ('have different pipelines' in capsys.readouterr().out) == warned
