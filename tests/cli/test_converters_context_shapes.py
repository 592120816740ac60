"""The demo data are what they claim to be: reproducible, and solvable by long-range context only."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmseg_invattn.cli.convert import context_shapes as tool

SMALL = {'num_train': 3, 'num_val': 2}


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob('*')) if path.is_file()}


def test_same_arguments_give_the_same_bytes(tmp_path):
    for name in ('first', 'second'):
        assert tool.generate(tmp_path / name, tool.Settings(**SMALL))
    assert _files(tmp_path / 'first') == _files(tmp_path / 'second')
    assert len(_files(tmp_path / 'first')) == 2 * (3 + 2) + 1


def test_pixels_are_pinned():
    # Fails when anything in the random stream moves: then the published figures of the demo are out of date.
    image, label = tool.make_pair(tool.Settings(), 'train', 0)
    again, _ = tool.make_pair(tool.Settings(num_train=5), 'train', 0)
    other_split, _ = tool.make_pair(tool.Settings(), 'val', 0)
    other_seed, _ = tool.make_pair(tool.Settings(seed=1), 'train', 0)
    assert np.array_equal(image, again)
    assert not np.array_equal(image, other_split) and not np.array_equal(image, other_seed)
    assert (int(image.astype(np.int64).sum()), int(label.sum())) == (1619672, 195)


@pytest.mark.parametrize(
    'settings', [tool.Settings(), tool.Settings(num_classes=5, marker_size=5, distance=60, width=128, height=40)]
)
def test_distance_holds_in_every_image(settings):
    sides, seen = set(), set()
    for index in range(60):
        image, label = tool.make_pair(settings, 'train', index)
        classes = set(np.unique(label).tolist()) - {0}
        assert len(classes) == 1
        kind = classes.pop()
        seen.add(kind)
        colour = np.array(tool.MARKER_COLOURS[kind - 1])
        marker = (np.abs(image.astype(int) - colour) <= 12).all(axis=2)
        assert marker.sum() == settings.marker_size**2
        assert not (marker & (label > 0)).any()
        marker_columns, shape_columns = np.nonzero(marker)[1], np.nonzero(label)[1]
        gap = np.abs(marker_columns[:, None] - shape_columns[None]).min()
        assert gap >= settings.distance
        sides.add(bool(marker_columns.min() < shape_columns.min()))
    assert sides == {True, False}
    assert seen == set(range(1, settings.num_classes))


def test_class_shows_in_the_marker_only():
    settings = tool.Settings()
    scene = tool.draw_scene(tool.image_rng(settings, 'train', 3), settings)
    (first, label_first), (second, label_second) = tool.paint(scene, 1), tool.paint(scene, 2)
    differs = (first != second).any(axis=2)
    row, column = scene.marker
    inside = np.zeros_like(differs)
    inside[row : row + settings.marker_size, column : column + settings.marker_size] = True
    assert differs.any() and not (differs & ~inside).any()
    assert np.array_equal(label_first > 0, label_second > 0)


def test_files_agree_with_the_generator(context_shapes):
    image = cv2.imread(str(context_shapes / 'images' / 'val' / '0003.png'))[..., ::-1]
    label = cv2.imread(str(context_shapes / 'annotations' / 'val' / '0003.png'), cv2.IMREAD_UNCHANGED)
    expected_image, expected_label = tool.make_pair(tool.Settings(), 'val', 3)
    assert np.array_equal(image, expected_image)
    assert np.array_equal(label, expected_label) and label.dtype == np.uint8
    meta = json.loads((context_shapes / 'meta.json').read_text())
    assert meta['classes'] == ['background', 'shape_a', 'shape_b']
    assert meta['arguments']['num_train'] == 16


def test_reuse_refuse_overwrite(tmp_path, capsys):
    out = tmp_path / 'data'
    arguments = ['--out', str(out), '--num-train', '2', '--num-val', '1']
    tool.main(arguments)
    tool.main(arguments)
    assert 'Reused' in capsys.readouterr().out
    with pytest.raises(FileExistsError, match='--overwrite'):
        tool.main([*arguments, '--seed', '1'])
    before = _files(out)
    tool.main([*arguments, '--seed', '1', '--overwrite'])
    assert _files(out).keys() == before.keys() and _files(out) != before
    assert [path.name for path in tmp_path.iterdir()] == ['data']


def test_lost_file_is_not_reused(tmp_path):
    out = tmp_path / 'data'
    tool.generate(out, tool.Settings(**SMALL))
    (out / 'annotations' / 'val' / '0000.png').unlink()
    with pytest.raises(FileExistsError, match='--overwrite'):
        tool.generate(out, tool.Settings(**SMALL))
    assert tool.generate(out, tool.Settings(**SMALL), overwrite=True)
    assert (out / 'annotations' / 'val' / '0000.png').is_file()


def test_foreign_folder_is_never_replaced(tmp_path):
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / 'thesis.txt').write_text('mine')
    with pytest.raises(FileExistsError, match='not written by this converter'):
        tool.generate(tmp_path / 'data', tool.Settings(**SMALL), overwrite=True)
    assert (tmp_path / 'data' / 'thesis.txt').read_text() == 'mine'


def test_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def stop(settings, split, index):
        if split == 'val':
            raise KeyboardInterrupt
        return pair(settings, split, index)

    pair = tool.make_pair
    monkeypatch.setattr(tool, 'make_pair', stop)
    with pytest.raises(KeyboardInterrupt):
        tool.generate(tmp_path / 'data', tool.Settings(**SMALL))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    'arguments, named',
    [
        ({'distance': 90}, 'distance is 90'),
        ({'distance': 0}, 'distance is 0'),
        ({'marker_size': 49}, 'marker_size is 49'),
        ({'marker_size': 0}, 'marker_size is 0'),
        ({'num_classes': 1}, 'num_classes is 1'),
        ({'num_classes': 10}, 'num_classes is 10'),
        ({'height': 13, 'marker_size': 8}, 'height is 13'),
        ({'num_val': 0}, 'num_val is 0'),
        ({'seed': -1}, 'seed is -1'),
    ],
)
def test_impossible_settings(arguments, named):
    with pytest.raises(ValueError, match=rf'{named}.*Fix: '):
        tool.Settings(**arguments)


def test_largest_distance_is_possible():
    with pytest.raises(ValueError) as caught:
        tool.Settings(distance=90)
    largest = int(str(caught.value).split('at most ')[1].split('.')[0])
    settings = tool.Settings(distance=largest)
    _, label = tool.make_pair(settings, 'train', 0)
    assert label.any()
    with pytest.raises(ValueError, match='distance'):
        tool.Settings(distance=largest + 1)
