"""CamVid converter on made-up data in both layouts."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.checkout import ROOT

from mmseg_invattn.cli.convert import camvid as tool

TOOLS = ROOT / 'tools' / 'dataset_converters'

LAYOUTS = {'segnet': ('{}', '{}annot'), 'prepared': ('images/{}', 'labels/{}')}


def _make(root: Path, layout: str, splits: tuple[str, ...] = ('train', 'val', 'test'), suffix: str = '.png') -> None:
    rng = np.random.default_rng(0)
    for split in splits:
        images, labels = (root / part.format(split) for part in LAYOUTS[layout])
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for index in range(2):
            cv2.imwrite(str(images / f'{split}_{index}{suffix}'), rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
            label = rng.integers(0, 12, (12, 16), dtype=np.uint8)
            label[0, :2] = 11, 255
            cv2.imwrite(str(labels / f'{split}_{index}.png'), label)


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('suffix', ['.png', '.jpg'])
def test_convert(tmp_path, layout, suffix):
    source, out = tmp_path / 'source', tmp_path / 'camvid'
    _make(source, layout, suffix=suffix)
    assert tool.convert(source, out) == {'train': 2, 'val': 2, 'test': 2}
    images, labels = (source / part.format('val') for part in LAYOUTS[layout])
    assert (out / f'images/val/val_1{suffix}').read_bytes() == (images / f'val_1{suffix}').read_bytes()
    before = cv2.imread(str(labels / 'val_1.png'), cv2.IMREAD_UNCHANGED)
    after = cv2.imread(str(out / 'labels/val/val_1.png'), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(after, np.where(before == 11, 255, before))
    assert set(np.unique(after)) <= set(range(11)) | {255}


def test_command_line_and_overwrite(tmp_path):
    _make(tmp_path / 'source', 'segnet', splits=('train', 'val'))
    command = [sys.executable, str(TOOLS / 'camvid.py'), str(tmp_path / 'source'), '--out', str(tmp_path / 'out')]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '2 train images, 2 val images' in done.stdout
    with pytest.raises(FileExistsError, match='--overwrite'):
        tool.main(command[2:])
    tool.main([*command[2:], '--overwrite'])
    assert len(list((tmp_path / 'out/labels/train').iterdir())) == 2


def _unlink_label(source):
    (source / 'valannot/val_1.png').unlink()


def _unlink_image(source):
    (source / 'val/val_1.png').unlink()


def _wrong_size(source):
    cv2.imwrite(str(source / 'valannot/val_1.png'), np.zeros((6, 8), np.uint8))


def _wrong_value(source):
    cv2.imwrite(str(source / 'valannot/val_1.png'), np.full((12, 16), 12, np.uint8))


def _colour_label(source):
    cv2.imwrite(str(source / 'valannot/val_1.png'), np.zeros((12, 16, 3), np.uint8))


def _truncate_image(source):
    path = source / 'val/val_1.png'
    path.write_bytes(path.read_bytes()[:-20])


def _truncate_label(source):
    path = source / 'valannot/val_1.png'
    path.write_bytes(path.read_bytes()[:40])


@pytest.mark.parametrize(
    'damage, error, named',
    [
        (_unlink_label, FileNotFoundError, r'val/val_1\.png has no label'),
        (_unlink_image, FileNotFoundError, r'valannot/val_1\.png has no image'),
        (_wrong_size, ValueError, r'valannot/val_1\.png is 6x8'),
        (_wrong_value, ValueError, r'valannot/val_1\.png holds the value 12 '),
        (_colour_label, ValueError, r'valannot/val_1\.png decodes to an array of shape'),
        (_truncate_image, ValueError, r'val/val_1\.png: it is truncated'),
        (_truncate_label, ValueError, r'valannot/val_1\.png: it is truncated'),
    ],
)
def test_faulty_source(tmp_path, damage, error, named):
    source = tmp_path / 'source'
    _make(source, 'segnet')
    damage(source)
    with pytest.raises(error, match=named) as caught:
        tool.convert(source, tmp_path / 'out')
    assert 'Fix: ' in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ['source']


def test_missing_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match='nowhere does not exist'):
        tool.convert(tmp_path / 'nowhere', tmp_path / 'out')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(FileNotFoundError, match='trainannot'):
        tool.convert(tmp_path / 'empty', tmp_path / 'out')
    _make(tmp_path / 'half', 'segnet', splits=('train',))
    (tmp_path / 'half' / 'val').mkdir()
    with pytest.raises(FileNotFoundError, match='valannot does not'):
        tool.convert(tmp_path / 'half', tmp_path / 'out')
