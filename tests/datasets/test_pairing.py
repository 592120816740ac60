"""Nothing in the folders of a data set is left out in silence, and classes and turned images are told of."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.tool_case import call_tool
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from PIL import Image

from mmseg_invattn.datasets import pairing, survey
from mmseg_invattn.datasets.checks import check_dataset_files, shared_label_folders
from mmseg_invattn.datasets.class_sample import sample_classes
from mmseg_invattn.datasets.loading import StrictLoadAnnotations, StrictLoadImageFromFile
from mmseg_invattn.datasets.pairing import check_label_partners
from mmseg_invattn.datasets.survey import survey_dataset

PIPELINE = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]


@pytest.fixture(autouse=True)
def mmseg_scope():
    init_default_scope('mmseg')


@pytest.fixture
def data(tmp_path):
    """Four images of two splits, classes 0 and 1."""
    for split in ('train', 'val'):
        for folder in ('images', 'labels'):
            (tmp_path / folder / split).mkdir(parents=True)
        for index in range(4):
            cv2.imwrite(str(tmp_path / 'images' / split / f'{index}.jpg'), np.zeros((8, 12, 3), np.uint8))
            label = np.zeros((8, 12), np.uint8)
            label[index] = 1
            cv2.imwrite(str(tmp_path / 'labels' / split / f'{index}.png'), label)
    return tmp_path


def config(data: Path, split: str = 'train', **more) -> dict:
    return dict(
        dict(
            type='CheckedSegDataset',
            data_root=str(data),
            data_prefix=dict(img_path=f'images/{split}', seg_map_path=f'labels/{split}'),
            metainfo=dict(classes=('background', 'thing')),
            pipeline=PIPELINE,
        ),
        **more,
    )


def capitals(data: Path) -> None:
    (data / 'images/train/1.jpg').rename(data / 'images/train/1.JPG')


def dangling(data: Path) -> None:
    (data / 'images/train/1.jpg').unlink()
    (data / 'images/train/1.jpg').symlink_to('/nowhere/1.jpg')


def pipe(data: Path) -> None:
    (data / 'images/train/1.jpg').unlink()
    os.mkfifo(data / 'images/train/1.jpg')


@pytest.mark.parametrize(
    'change, why', [(capitals, 'capitals count'), (dangling, 'link to /nowhere/1.jpg'), (pipe, 'not a file')]
)
@pytest.mark.parametrize('wrapped', [False, True])
def test_image_that_would_be_left_out(data, change, why, wrapped):
    plain = config(data, type='BaseSegDataset', img_suffix='.jpg')
    change(data)
    dataset = DATASETS.build(dict(type='RepeatDataset', times=2, dataset=plain) if wrapped else plain)
    with pytest.raises(ValueError, match=rf'images/train/1\.(jpg|JPG) would be left out: .*{why}.*Fix: '):
        check_dataset_files(dataset)
    faults = survey_dataset(dataset).faults
    assert sorted(fault.kind for fault in faults) == [survey.SKIPPED, survey.MISSING_PARTNER]
    assert any(why in fault.detail for fault in faults)


def test_suffix_that_the_folder_decides(data):
    capitals(data)
    with pytest.raises(ValueError, match=r'several suffixes: 0\.jpg, 1\.JPG.*Fix: '):
        DATASETS.build(config(data))
    for index in (0, 2, 3):
        (data / f'images/train/{index}.jpg').rename(data / f'images/train/{index}.JPG')
    dataset = DATASETS.build(config(data))
    assert check_dataset_files(dataset) == 4 and dataset.img_suffix == '.JPG'
    with pytest.raises(ValueError, match=r'holds no \*\.jpg.*It holds .\.JPG, and capitals count'):
        DATASETS.build(config(data, img_suffix='.jpg'))
    cv2.imwrite(str(data / 'images/train/more.webp'), np.zeros((8, 12, 3), np.uint8))
    with pytest.raises(ValueError, match='several suffixes'):
        DATASETS.build(config(data))


def test_missing_files_say_why(data):
    (data / 'labels/train/2.png').rename(data / 'labels/train/2.PNG')
    with pytest.raises(FileNotFoundError, match=r'2\.png does not exist \(there is 2\.PNG, and capitals count\)'):
        check_dataset_files(DATASETS.build(config(data)))
    (data / 'list.txt').write_text('0\n3\n')
    (data / 'images/train/3.jpg').unlink()
    (data / 'images/train/3.jpg').symlink_to('gone')
    with pytest.raises(FileNotFoundError, match=r'3\.jpg does not exist \(it is a link to gone, which'):
        check_dataset_files(DATASETS.build(config(data, ann_file='list.txt')))


def test_unreadable_file(data, monkeypatch):
    refused = str(data / 'labels/train/2.png')
    monkeypatch.setattr(pairing.os, 'access', lambda path, mode: str(path) != refused)  # root may read everything
    with pytest.raises(PermissionError, match=r'labels/train/2\.png cannot be read.*Fix: chmod'):
        check_dataset_files(DATASETS.build(config(data)))


def test_label_without_image(data):
    (data / 'images/train/2.jpg').unlink()
    dataset = DATASETS.build(config(data))
    with pytest.raises(FileNotFoundError, match=r'1 label without an image .*labels/train/2\.png\..*Fix: '):
        check_label_partners([dataset])
    assert [fault.kind for fault in survey_dataset(dataset).faults] == [survey.MISSING_PARTNER]
    (data / 'list.txt').write_text('0\n')
    for part in (dict(ann_file='list.txt'), dict(indices=2), dict(pipeline=PIPELINE[:1])):
        check_label_partners([DATASETS.build(config(data, **part))])


def test_folder_of_labels_that_splits_share(data):
    for index in range(4):
        (data / f'images/val/{index}.jpg').rename(data / f'images/val/v{index}.jpg')
        (data / f'labels/val/{index}.png').rename(data / f'labels/train/v{index}.png')
    prefix = dict(img_path='images/val', seg_map_path='labels/train')
    cfg = dict(
        train_dataloader=dict(dataset=config(data)),
        val_dataloader=dict(dataset=dict(type='RepeatDataset', dataset=config(data, data_prefix=prefix))),
    )
    train, val = DATASETS.build(config(data)), DATASETS.build(config(data, data_prefix=prefix))
    check_label_partners([train, val])
    assert shared_label_folders(cfg, ['train', 'val']) == set()
    shared = shared_label_folders(cfg, ['val'])
    assert shared == {str(data / 'labels/train')}
    check_label_partners([val], shared)
    with pytest.raises(FileNotFoundError, match='4 labels without an image'):
        check_label_partners([val])
    assert not survey_dataset(val, shared=shared).faults


def test_classes_without_a_pixel(data):
    dataset = DATASETS.build(config(data))
    assert sample_classes(dataset).remarks() == [] and sample_classes(dataset).pixels.tolist() == [336, 48, 0]
    for path in (data / 'labels/train').iterdir():
        label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), np.where(label == 1, 255, label))
    for found in (sample_classes(dataset), survey_dataset(dataset)):
        (remark,) = found.remarks()
        assert remark.startswith('thing (1 of 2 classes) has no pixel in the 4 labels of this split')
        assert 'The labels hold 0, 255, and 255 is ignored' in remark
    few = sample_classes(dataset, max_pixels=100)
    assert few.images == 2 and 'in the 2 labels looked at, of 4' in few.remarks()[0]
    (data / 'labels/train/0.png').write_bytes(b'no label')  # the loading transforms name it
    assert sample_classes(dataset).images == 3
    both = DATASETS.build(dict(type='ConcatDataset', datasets=[config(data), config(data, 'val')]))
    assert sample_classes(both).remarks() == []


def turn(path: Path, value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    Image.open(path).save(path, exif=exif)


def test_images_turned_by_exif(data, capsys):
    turn(data / 'images/train/1.jpg', 3)
    turn(data / 'images/train/2.jpg', 4)
    dataset = DATASETS.build(config(data))
    for found in (sample_classes(dataset), survey_dataset(dataset)):
        assert dict(found.turned) == {3: 1, 4: 1}
        assert 'Loading turns or mirrors 2 images of 4' in found.remarks()[0]
    stored = [dict(type='LoadImageFromFile', color_type='color_ignore_orientation'), PIPELINE[1]]
    assert survey_dataset(DATASETS.build(config(data, pipeline=stored))).remarks() == []
    turn(data / 'images/train/3.jpg', 6)
    (fault,) = survey_dataset(dataset).faults
    assert fault.kind == survey.SIZE and 'EXIF data of the image (orientation 6) turn it by 90 degrees' in fault.detail
    sample = StrictLoadImageFromFile()(dict(dataset.get_data_info(3)))
    with pytest.raises(ValueError, match=r'3\.png is 8x12 .* image is 12x8.*EXIF.*Fix: '):
        StrictLoadAnnotations(2)(sample)
    file = data / 'config.py'
    file.write_text(f'train_dataloader = dict(dataset={config(data)!r})')
    assert call_tool('check_dataset', file) == 1
    assert 'note: Loading turns or mirrors 3 images of 4' in capsys.readouterr().out
