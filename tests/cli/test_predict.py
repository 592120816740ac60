"""tools/predict.py on images, folders and videos, and the checkpoints that it refuses."""

import cv2
import numpy as np
import pytest
import torch
from helpers.runtime_case import run_tool
from helpers.tool_case import attention_config, call_tool, write_tool_case, write_weights
from mmseg.apis import inference_model

from mmseg_invattn.engine.inference import dataset_meta, init_model
from mmseg_invattn.engine.matching import CheckpointMismatchError
from mmseg_invattn.visualization.media import VideoReader, VideoWriter, read_image, write_image
from mmseg_invattn.visualization.overlay import class_colours, confidence_map, legend, paint, with_legend


@pytest.fixture(scope='module')
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp('case')
    return *write_tool_case(folder), folder / 'data' / 'images'


def test_painting_mixes_and_leaves_ignored_pixels():
    image, labels = np.full((2, 3, 3), 100, np.uint8), np.array([[0, 1, 255], [1, 1, -1]])
    painted = paint(image, labels, np.array([[0, 0, 0], [200, 0, 100]], np.uint8), 0.25)
    assert painted[0].tolist() == [[75, 75, 75], [125, 75, 100], [100, 100, 100]]
    assert painted[1, 2].tolist() == [100, 100, 100] and (paint(image, labels, class_colours(2), 0) == image).all()
    with pytest.raises(ValueError, match='opacity is 2'):
        paint(image, labels, class_colours(2), 2)
    with pytest.raises(ValueError, match=r'label map is \(2, 3\) and the image \(2, 2\)'):
        paint(image[:, :2], labels, class_colours(2))


@pytest.mark.parametrize('num_classes, height', [(3, 28), (19, 512), (150, 512), (11, 1440)])
def test_legend_shows_every_colour_beside_the_picture(num_classes, height):
    colours = class_colours(num_classes)
    assert len({tuple(colour) for colour in colours.tolist()}) == num_classes
    names = [f'class {k}' for k in range(num_classes)]
    panel = legend(names, colours, height)
    assert panel.shape[0] == height and panel.dtype == np.uint8
    drawn = {tuple(colour) for colour in np.unique(panel.reshape(-1, 3), axis=0).tolist()}
    assert {tuple(colour) for colour in colours.tolist()} <= drawn
    picture = np.zeros((height, 40, 3), np.uint8)
    both = with_legend(picture, names, colours, [0, 2])
    assert (both[:, :40] == picture).all() and 40 < both.shape[1] < 40 + panel.shape[1] + 1


def test_palettes_are_one_colour_a_class():
    with pytest.raises(ValueError, match='2 colours for 3 classes'):
        class_colours(3, [[0, 0, 0], [1, 1, 1]])


def test_confidence_is_the_largest_probability():
    logits = torch.randn(4, 3, 5) * 30
    np.testing.assert_allclose(confidence_map(logits.numpy()), logits.softmax(0).amax(0), rtol=1e-5)
    np.testing.assert_allclose(confidence_map(np.array([[[0.2, 0.7]]])), [[0.8, 0.7]])


def test_a_folder_with_a_broken_image(case, tmp_path, capsys):
    config, checkpoint, images = case
    folder = tmp_path / 'in'
    folder.mkdir()
    for name in ('0.png', '1.png'):
        (folder / name).write_bytes((images / name).read_bytes())
    (folder / 'broken.png').write_bytes((images / '2.png').read_bytes()[:200])
    (folder / 'notes.txt').write_text('no image')
    assert call_tool('predict', config, checkpoint, folder, '--out', tmp_path / 'out', '--confidence') == 1
    said = capsys.readouterr()
    assert '2 of 3 images' in said.out and 'broken.png' in said.err and 'truncated' in said.err
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == sorted(
        f'{i}_{kind}.png' for i in (0, 1) for kind in ('overlay', 'labels', 'confidence')
    )
    model = init_model(config, str(checkpoint), 'cpu')
    assert list(model.dataset_meta['classes']) == ['a', 'b', 'c']
    result = inference_model(model, cv2.imread(str(images / '0.png')))
    labels = cv2.imread(str(tmp_path / 'out' / '0_labels.png'), cv2.IMREAD_UNCHANGED)
    assert (labels == result.pred_sem_seg.data[0].numpy()).all() and len(np.unique(labels)) > 1
    confidence = cv2.imread(str(tmp_path / 'out' / '0_confidence.png'), cv2.IMREAD_UNCHANGED)
    np.testing.assert_allclose(confidence / 255, result.seg_logits.data.softmax(0).amax(0), atol=0.5 / 255 + 1e-6)
    overlay = read_image(tmp_path / 'out' / '0_overlay.png')
    expected = paint(read_image(images / '0.png'), labels, np.array(model.dataset_meta['palette'], np.uint8))
    assert (overlay[:28, :28] == expected).all() and overlay.shape[1] > 28
    before = (tmp_path / 'out' / '1_labels.png').stat().st_mtime_ns
    with pytest.raises(FileExistsError, match='0_overlay.png and 5 more files would be replaced.*--overwrite'):
        call_tool('predict', config, checkpoint, folder, '--out', tmp_path / 'out', '--confidence')
    assert (tmp_path / 'out' / '1_labels.png').stat().st_mtime_ns == before
    assert call_tool('predict', config, checkpoint, folder / '0.png', '--out', tmp_path / 'out', '--overwrite') == 0


def test_a_video(case, tmp_path):
    config, checkpoint, images = case
    with VideoWriter(tmp_path / 'in.mp4', 10) as writer:
        for i in range(3):
            writer.write(np.repeat(np.repeat(read_image(images / f'{i}.png'), 2, 0), 2, 1))
    assert call_tool('predict', config, checkpoint, tmp_path / 'in.mp4', '--out', tmp_path, '--confidence') == 0
    for kind in ('overlay', 'confidence'):
        video = VideoReader(tmp_path / f'in_{kind}.mp4')
        frames = list(video)
        assert len(frames) == video.count == 3 and video.rate == pytest.approx(10)
        assert frames[0].shape[0] == 56 and (frames[0].shape[1] > 56) == (kind == 'overlay')


def test_what_is_no_input(case, tmp_path):
    config, checkpoint, _ = case
    (tmp_path / 'empty.mp4').write_bytes(b'')
    (tmp_path / 'text.xyz').write_text('text')
    (tmp_path / 'folder').mkdir()
    for name, error, message in (
        ('gone.png', FileNotFoundError, 'gone.png: there is no such file'),
        ('folder', ValueError, 'folder: the folder holds no image'),
        ('empty.mp4', ValueError, 'empty.mp4: this is neither a folder, nor an image'),
        ('text.xyz', ValueError, 'text.xyz: this is neither a folder, nor an image'),
    ):
        with pytest.raises(error, match=message):
            call_tool('predict', config, checkpoint, tmp_path / name, '--out', tmp_path / 'out')
    for name in ('a.png', 'a.jpg'):
        (tmp_path / 'folder' / name).write_bytes(b'')
    with pytest.raises(ValueError, match='a.jpg and .*a.png: .*rename'):
        call_tool('predict', config, checkpoint, tmp_path / 'folder', '--out', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_a_video_without_frames(tmp_path):
    path = tmp_path / 'none.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 10, (32, 32))
    writer.release()
    with pytest.raises(ValueError, match='none.avi: (the video has no frames|this is neither)'):
        VideoReader(path)


def test_checkpoints_of_other_models(case, tmp_path):
    config, checkpoint, images = case
    other = attention_config(tmp_path, config, form='certified')
    weights = write_weights(other, tmp_path / 'other.pth')
    with pytest.raises(
        CheckpointMismatchError,
        match=r'other.pth: this checkpoint does not belong to the config.*'
        r'only in the checkpoint: decode_head.*\. Use the config',
    ):
        call_tool('predict', config, weights, images, '--out', tmp_path / 'out')
    with pytest.raises(CheckpointMismatchError, match='only in the checkpoint: decode_head'):
        run_tool('test', config, weights, '--work-dir', tmp_path / 'work')
    state = torch.load(checkpoint, weights_only=True)['state_dict']
    state['decode_head.conv_seg.weight'] = torch.zeros(5, 8, 1, 1)
    del state['decode_head.conv_seg.bias']
    torch.save({f'module.{name}': value for name, value in state.items()}, tmp_path / 'bare.pth')
    with pytest.raises(
        CheckpointMismatchError,
        match=r'1 of another shape: decode_head.conv_seg.weight \(5, 8, 1, 1\) '
        r'for \(3, 8, 1, 1\); 1 only in the model: decode_head.conv_seg',
    ):
        init_model(config, str(tmp_path / 'bare.pth'), 'cpu')
    torch.save(dict(epoch=1), tmp_path / 'nothing.pth')
    with pytest.raises(CheckpointMismatchError, match='nothing.pth: there are no weights'):
        init_model(config, str(tmp_path / 'nothing.pth'), 'cpu')


def test_images_come_back_as_they_were_written(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    write_image(tmp_path / 'a.png', image)
    assert (read_image(tmp_path / 'a.png') == image).all()
    assert dataset_meta({}) == {}
