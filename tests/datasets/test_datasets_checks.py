"""Bad input: each fault ends in an error that names the file or folder, the rule and the fix."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.registry import DATASETS, TRANSFORMS

from mmseg_invattn.datasets.checks import check_data_folders, check_dataset_files, make_loading_strict
from mmseg_invattn.datasets.image_files import ensure_whole
from mmseg_invattn.datasets.loading import StrictLoadAnnotations, StrictLoadImageFromFile

STRICT = [
    dict(type='StrictLoadImageFromFile'),
    dict(type='StrictLoadAnnotations', num_classes=19),
    dict(type='PackSegInputs'),
]
PLAIN = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(8, 4), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
TTA = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale_factor=r) for r in (0.5, 1.0)],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]
NAMES = {
    'CityscapesDataset': ('{}_leftImg8bit.png', '{}_gtFine_labelTrainIds.png', 19),
    'CamVidDataset': ('{}.jpg', '{}.png', 11),
    'ContextShapesDataset': ('{}.png', '{}.png', 3),
}


@pytest.fixture(autouse=True)
def mmseg_scope():
    init_default_scope('mmseg')


@pytest.fixture(params=NAMES)
def case(request, tmp_path):
    """A data set of three images: its config without pipeline, and the files of the second image."""
    image_name, label_name, num_classes = NAMES[request.param]
    rng = np.random.default_rng(0)
    for folder in ('img', 'ann'):
        (tmp_path / folder).mkdir()
    for index in range(3):
        cv2.imwrite(str(tmp_path / 'img' / image_name.format(index)), rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        label = rng.integers(0, num_classes, (24, 32), dtype=np.uint8)
        label[0] = 255
        cv2.imwrite(str(tmp_path / 'ann' / label_name.format(index)), label)
    config = dict(type=request.param, data_root=str(tmp_path), data_prefix=dict(img_path='img', seg_map_path='ann'))
    return config, tmp_path / 'img' / image_name.format(1), tmp_path / 'ann' / label_name.format(1), num_classes


def _strict_pipeline(num_classes: int) -> list[dict]:
    return [STRICT[0], dict(STRICT[1], num_classes=num_classes), STRICT[2]]


def _loaded(case, style: str):
    """All samples of the data set as training (strict names) or testing (plain names made strict) loads them."""
    config, _, _, num_classes = case
    pipeline = {'train': _strict_pipeline(num_classes), 'test': PLAIN, 'tta': TTA}[style]
    dataset = DATASETS.build(dict(config, pipeline=pipeline, test_mode=style != 'train'))
    if style != 'train':
        make_loading_strict(dataset)
    return [dataset[index] for index in range(len(dataset))]


def _cut(path: Path, count: int) -> None:
    path.write_bytes(path.read_bytes()[:-count])


DAMAGES = {
    'cut image': (lambda image, label, n: _cut(image, 9), 'image', 'truncated'),
    'halved image': (lambda image, label, n: _cut(image, image.stat().st_size // 2), 'image', 'truncated'),
    'empty image': (lambda image, label, n: image.write_bytes(b''), 'image', 'empty'),
    'text as image': (lambda image, label, n: image.write_text('not an image'), 'image', 'no image in it'),
    'cut label': (lambda image, label, n: _cut(label, 9), 'label', 'truncated'),
    'text as label': (lambda image, label, n: label.write_text('not a label'), 'label', 'cannot identify'),
    'other size': (lambda image, label, n: cv2.imwrite(str(label), np.zeros((12, 16), np.uint8)), 'label', '12x16'),
    'class too large': (
        lambda image, label, n: cv2.imwrite(str(label), np.full((24, 32), n, np.uint8)),
        'label',
        'value',
    ),
    '16 bit class': (
        lambda image, label, n: cv2.imwrite(str(label), np.full((24, 32), 257, np.uint16)),
        'label',
        'value.* 257 ',
    ),
    'colours': (
        lambda image, label, n: cv2.imwrite(str(label), np.zeros((24, 32, 3), np.uint8)),
        'label',
        'one channel',
    ),
}


@pytest.mark.parametrize('style', ['train', 'test', 'tta'])
def test_whole_data_load(case, style):
    samples = _loaded(case, style)
    assert len(samples) == 3
    sample = samples[0]['data_samples']
    label = (sample[0] if style == 'tta' else sample).gt_sem_seg.data
    assert label.shape == (1, 24, 32) and (label[0, 0] == 255).all() and label[0, 1:].max() < case[3]


@pytest.mark.parametrize('style', ['train', 'test', 'tta'])
@pytest.mark.parametrize('damage', DAMAGES)
def test_damaged_file(case, damage, style):
    _, image, label, num_classes = case
    change, which, reason = DAMAGES[damage]
    change(image, label, num_classes)
    with pytest.raises(ValueError, match=f'(?s){reason}.*Fix: ') as caught:
        _loaded(case, style)
    assert str(image if which == 'image' else label) in str(caught.value)


def test_damaged_png_chunk(tmp_path):
    content = bytearray(cv2.imencode('.png', np.arange(600, dtype=np.uint8).reshape(20, 30))[1].tobytes())
    content[len(content) // 2] ^= 0xFF
    with pytest.raises(ValueError, match=r'x\.png: the checksum'):
        ensure_whole(bytes(content), 'x.png')


def test_thumbnail_does_not_hide_truncation():
    jpeg = cv2.imencode('.jpg', np.zeros((16, 16, 3), np.uint8))[1].tobytes()
    segment = b'\xff\xe1' + (len(jpeg) + 2).to_bytes(2, 'big') + jpeg  # as an EXIF thumbnail is stored
    whole = jpeg[:2] + segment + jpeg[2:]
    ensure_whole(whole, 'x.jpg')
    ensure_whole(whole + b'trailing bytes', 'x.jpg')
    with pytest.raises(ValueError, match=r'x\.jpg: it is truncated'):
        ensure_whole(whole[:-2], 'x.jpg')


def test_missing_label_or_image(case):
    config, image, label, num_classes = case
    dataset = DATASETS.build(dict(config, pipeline=_strict_pipeline(num_classes)))
    assert check_dataset_files(dataset) == 3
    content = label.read_bytes()
    label.unlink()
    for checked in (
        dataset,
        DATASETS.build(dict(config, pipeline=PLAIN)),
        DATASETS.build(dict(config, pipeline=TTA)),
        DATASETS.build(dict(type='RepeatDataset', times=2, dataset=dict(config, pipeline=PLAIN))),
    ):
        with pytest.raises(FileNotFoundError, match='has no label.*Fix: ') as caught:
            check_dataset_files(checked)
        assert str(label) in str(caught.value) and str(image) in str(caught.value)
    with pytest.raises(FileNotFoundError, match='label file .*Fix: '):
        dataset[1]
    assert check_dataset_files(DATASETS.build(dict(config, pipeline=PLAIN[:2]))) == 3  # prediction needs no labels
    label.write_bytes(content)
    image.unlink()
    with pytest.raises(FileNotFoundError, match='image file .*Fix: '):
        check_dataset_files(dataset)


def test_missing_and_empty_folders(case):
    config, image, label, _ = case
    whole = Config(dict(train_dataloader=dict(dataset=dict(config)), val_dataloader=None))
    check_data_folders(whole)
    wrapped = Config(dict(test_dataloader=dict(dataset=dict(type='ConcatDataset', datasets=[dict(config)]))))
    image.parent.rename(image.parent.with_name('kept'))
    for broken in (whole, wrapped):
        with pytest.raises(FileNotFoundError, match='image folder .*/img does not exist.*Fix: '):
            check_data_folders(broken)
    check_data_folders(whole, splits=('val', 'test'))
    image.parent.mkdir()
    (image.parent / 'readme.txt').write_text('no image')
    with pytest.raises(ValueError, match=r'image folder .*/img holds no \*.*Fix: '):
        check_data_folders(whole)
    if config['type'] != 'CityscapesDataset':
        with pytest.raises(ValueError, match=r'image folder .*/img holds no \*.*Fix: '):
            DATASETS.build(config)
        image.parent.rename(image.parent.with_name('gone'))
        with pytest.raises(FileNotFoundError, match='image folder .*/img does not exist.*Fix: '):
            DATASETS.build(config)
    with pytest.raises(FileNotFoundError, match='ann_file.*does not exist'):
        check_data_folders(Config(dict(test_dataloader=dict(dataset=dict(config, ann_file='list.txt')))))


def test_labels_are_those_of_mmseg(tmp_path):
    """Zero-label reduction and selected classes give what mmseg's own LoadAnnotations gives."""
    path = tmp_path / 'label.png'
    cv2.imwrite(str(path), np.array([[0, 1, 2], [3, 255, 1]], np.uint8))
    plain = TRANSFORMS.get('LoadAnnotations')
    for reduce, label_map, count in (
        (False, None, 4),
        (True, None, 3),
        (False, {0: 255, 1: 0, 2: 1, 3: 255}, 4),
        (True, {0: 1, 1: 255, 2: 0}, 3),
    ):
        maps = []
        for transform in (plain(), StrictLoadAnnotations(num_classes=count)):
            info = dict(seg_map_path=str(path), reduce_zero_label=reduce, label_map=label_map, seg_fields=[])
            maps.append(transform(info)['gt_seg_map'])
        assert np.array_equal(*maps) and maps[1].dtype == np.uint8
        with pytest.raises(ValueError, match=r'label\.png holds the value 3 '):
            StrictLoadAnnotations(num_classes=count - 1)(info)
    with pytest.raises(ValueError, match='num_classes is 0'):
        StrictLoadAnnotations(num_classes=0)


def test_images_are_those_of_mmcv(data_root):
    path = str(next((data_root / 'camvid' / 'images' / 'val').iterdir()))
    for arguments in (dict(), dict(to_float32=True), dict(color_type='grayscale'), dict(imdecode_backend='pillow')):
        expected = TRANSFORMS.get('LoadImageFromFile')(**arguments)(dict(img_path=path))
        results = StrictLoadImageFromFile(**arguments)(dict(img_path=path))
        assert np.array_equal(results['img'], expected['img']) and results['img'].dtype == expected['img'].dtype
        assert results['ori_shape'] == expected['ori_shape'] and results['img_shape'] == expected['img_shape']


def _runner(case, work_dir: Path, workers: int) -> Runner:
    config, _, _, num_classes = case
    loader = dict(batch_size=1, num_workers=workers, sampler=dict(type='DefaultSampler', shuffle=False))
    model = ConfigDict(
        type='EncoderDecoder',
        data_preprocessor=dict(type='SegDataPreProcessor', size=(24, 32)),
        backbone=dict(
            type='ResNet', depth=18, base_channels=4, num_stages=1, strides=(1,), dilations=(1,), out_indices=(0,)
        ),
        decode_head=dict(
            type='FCNHead',
            in_channels=4,
            channels=4,
            num_convs=1,
            concat_input=False,
            num_classes=num_classes,
            norm_cfg=dict(type='BN'),
        ),
        test_cfg=dict(mode='whole'),
    )
    return Runner(
        model,
        str(work_dir),
        experiment_name=work_dir.name,
        default_scope='mmseg',
        log_level='INFO',
        custom_hooks=[dict(type='DatasetCheckHook')],
        train_dataloader=dict(
            loader, sampler=dict(type='InfiniteSampler'), dataset=dict(config, pipeline=_strict_pipeline(num_classes))
        ),
        val_dataloader=dict(loader, dataset=dict(config, pipeline=[PLAIN[0], *PLAIN[2:]], test_mode=True)),
        val_cfg=dict(type='ValLoop'),
        val_evaluator=dict(type='IoUMetric'),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=2, val_interval=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
    )


@pytest.mark.parametrize('case', ['CamVidDataset'], indirect=True)
def test_hook_in_a_run(case, tmp_path):
    _, image, label, num_classes = case
    runner = _runner(case, tmp_path / 'good', 2)
    runner.train()
    log = next((tmp_path / 'good').glob('*/*.log')).read_text()
    assert '3 images of the train data, every file' in log and log.count('3 images of the val data, every file') == 1
    assert isinstance(runner.val_dataloader.dataset.pipeline.transforms[1], StrictLoadAnnotations)
    cv2.imwrite(str(label), np.full((24, 32), num_classes, np.uint8))
    with pytest.raises(ValueError, match='value'):
        _runner(case, tmp_path / 'bad_value', 0).val()
    with pytest.raises(ValueError, match=f'(?s){label.name}.*Fix: '):
        _runner(case, tmp_path / 'worker', 1).train()
    label.unlink()
    with pytest.raises(FileNotFoundError, match='has no label'):
        _runner(case, tmp_path / 'no_label', 0).train()
