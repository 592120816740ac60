"""tools/check_dataset.py: every fault is found in one walk, and the histogram counts what a model would see."""

import re

import cv2
import numpy as np
import pytest
from helpers.runtime_case import write_case
from helpers.tool_case import call_tool
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS

from mmseg_invattn.datasets import survey
from mmseg_invattn.datasets.survey import survey_dataset


@pytest.fixture
def case(tmp_path):
    config = write_case(tmp_path)
    return config, tmp_path / 'data'


def kinds(found) -> dict[str, list[str]]:
    return {
        kind: sorted(fault.file.rsplit('/', 1)[-1] for fault in found.faults if fault.kind == kind)
        for kind in {fault.kind for fault in found.faults}
    }


def build(data, **more):
    init_default_scope('mmseg')
    return DATASETS.build(
        dict(
            type='BaseSegDataset',
            data_root=str(data),
            img_suffix='.png',
            seg_map_suffix='.png',
            data_prefix=dict(img_path='images', seg_map_path='labels'),
            pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
            **{'metainfo': dict(classes=('a', 'b', 'c')), **more},
        )
    )


def test_sound_data(case, capsys):
    config, data = case
    assert call_tool('check_dataset', config) == 0
    said = capsys.readouterr()
    labels = [cv2.imread(str(data / 'labels' / f'{i}.png'), cv2.IMREAD_UNCHANGED) for i in range(8)]
    assert '== train: 8 images, 0 faults' in said.out and '== val: 4 images, 0 faults' in said.out
    assert '== test: the same data as val' in said.out and 'train: 100%' in said.err
    assert re.search(rf'\| 1 b +\| +{sum((label == 1).sum() for label in labels):,} \|', said.out)


def test_every_fault_in_one_walk(case, capsys):
    config, data = case
    (data / 'labels' / '0.png').unlink()
    (data / 'images' / '1.png').unlink()
    (data / 'images' / '2.png').write_bytes((data / 'images' / '2.png').read_bytes()[:100])
    (data / 'labels' / '3.png').write_bytes(b'no image')
    cv2.imwrite(str(data / 'labels' / '4.png'), np.zeros((28, 27), np.uint8))
    wrong = np.zeros((28, 28), np.uint8)
    wrong[0, :5], wrong[1, :2] = 7, 9
    cv2.imwrite(str(data / 'labels' / '5.png'), wrong)
    wrong[1] = 0
    cv2.imwrite(str(data / 'labels' / '6.png'), wrong)
    cv2.imwrite(str(data / 'labels' / '7.png'), np.zeros((28, 28, 3), np.uint8))
    found = survey_dataset(build(data))
    assert kinds(found) == {
        survey.MISSING_LABEL: ['0.png'],
        survey.MISSING_PARTNER: ['1.png'],
        survey.UNREADABLE: ['2.png', '3.png'],
        survey.SIZE: ['4.png'],
        survey.VALUE: ['5.png', '6.png'],
        survey.CHANNELS: ['7.png'],
    }
    assert found.values == {7: (10, 2), 9: (2, 1)} and found.images == 7
    assert found.pixels[3] == 12  # what is no class counts as ignored
    assert call_tool('check_dataset', config, '--splits', 'train', '--shown', 1) == 1
    said = capsys.readouterr().out
    assert '== train: 7 images, 8 faults' in said and 'the value 7 is no class: 10 pixels in 2 files' in said
    assert 'value that is no class: 2\n' in said and '... and 1 more; --shown 0 lists all' in said
    assert 'labels/5.png: 7 in 5 pixels, 9 in 2 pixels' in said and '6.png: 7 in 5' not in said


def test_listed_images_that_are_missing(case):
    _, data = case
    (data / 'list.txt').write_text('0\ngone\n')
    found = survey_dataset(build(data, ann_file='list.txt'))
    assert kinds(found) == {survey.MISSING_IMAGE: ['gone.png'], survey.MISSING_LABEL: ['gone.png']}


def test_values_that_training_changes(case):
    _, data = case
    for path in (data / 'labels').iterdir():
        cv2.imwrite(str(path), np.array([[0, 1, 2, 3, 255, 4]], np.uint8))
        cv2.imwrite(str(data / 'images' / path.name), np.zeros((1, 6, 3), np.uint8))
    found = survey_dataset(build(data, reduce_zero_label=True))
    assert found.pixels.tolist() == [8, 8, 8, 24] and found.values == {4: (8, 8)}
    wrapped = DATASETS.build(dict(type='ConcatDataset', datasets=[build(data), build(data, indices=2)]))
    assert survey_dataset(wrapped).pixels.tolist() == [10, 10, 10, 30]


def test_data_that_cannot_be_built(case, capsys):
    config, data = case
    option = '+train_dataloader.dataset.ann_file=nowhere.txt'
    assert call_tool('check_dataset', config, '--cfg-options', option) == 1
    said = capsys.readouterr().out
    assert 'nowhere.txt' in said and '== val: 4 images, 0 faults' in said  # the other splits are still looked at
    with pytest.raises(ValueError, match='the config has no data for test'):
        call_tool('check_dataset', config, '--splits', 'test', '--cfg-options', 'test_dataloader=None')
    with pytest.raises(FileNotFoundError, match='gone.py: there is no such config'):
        call_tool('check_dataset', 'gone.py')


def test_camvid_is_sound(data_root):
    from mmseg_invattn.datasets import CamVidDataset

    found = survey_dataset(
        CamVidDataset(
            data_root=str(data_root / 'camvid'),
            pipeline=[],
            indices=20,
            data_prefix=dict(img_path='images/val', seg_map_path='labels/val'),
        )
    )
    assert found.images == 20 and not found.faults and (found.pixels > 0).sum() > 6
