"""A prediction that was interrupted goes on, and never mixes two models; many images take no more memory."""

import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
from helpers.checkout import ROOT
from helpers.runtime_case import tool_environment
from helpers.tool_case import attention_config, call_tool, write_tool_case, write_weights

from mmseg_invattn.cli import predict
from mmseg_invattn.cli.main import main
from mmseg_invattn.visualization.marks import mark_of
from mmseg_invattn.visualization.media import VideoReader, VideoWriter, read_image, write_image
from mmseg_invattn.visualization.prediction import Painter

MOST = 75  # MB from the first image to the thousandth; a third of it from the five hundredth


@pytest.fixture(scope='module')
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp('case')
    return *write_tool_case(folder), folder / 'data' / 'images'


@pytest.fixture
def stopping(monkeypatch):
    """Stops the model, as Ctrl-C does, after so many images; counts them."""
    seen, most, plain = [], [None], Painter.predict

    def predict_some(self, loaded):
        if most[0] is not None and len(seen) >= most[0]:
            raise KeyboardInterrupt
        seen.append(1)
        return plain(self, loaded)

    monkeypatch.setattr(Painter, 'predict', predict_some)
    return seen, most


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_images_go_on(case, tmp_path, stopping, capsys):
    config, weights, images = case
    seen, most = stopping
    line = [config, weights, images, '--confidence', '--out']
    assert call_tool('predict', *line, tmp_path / 'whole') == 0
    seen.clear()
    most[0] = 3
    with pytest.raises(KeyboardInterrupt):
        call_tool('predict', *line, tmp_path / 'out')
    most[0] = None
    (tmp_path / 'out' / '1_labels.png').unlink()  # an image counts when all of its pictures are there
    (tmp_path / 'out' / '.2_overlay.png.x.partial').write_bytes(b'half')  # of a process that was killed
    seen.clear()
    with pytest.raises(FileExistsError, match='would be replaced.*--resume'):
        call_tool('predict', *line, tmp_path / 'out')
    assert call_tool('predict', *line, tmp_path / 'out', '--resume') == 0
    assert len(seen) == 6 and '8 of 8 images, 2 of them done before' in capsys.readouterr().out
    assert content(tmp_path / 'out') == content(tmp_path / 'whole')


def test_a_video_goes_on(case, tmp_path, stopping, capsys):
    config, weights, images = case
    seen, most = stopping
    with VideoWriter(tmp_path / 'in.mp4', 10) as writer:
        for i in range(6):
            writer.write(np.repeat(np.repeat(read_image(images / f'{i}.png'), 2, 0), 2, 1))
    line = [config, weights, tmp_path / 'in.mp4', '--confidence', '--out']
    assert call_tool('predict', *line, tmp_path / 'whole') == 0 and len(seen) == 6
    assert sorted(content(tmp_path / 'whole')) == ['in_confidence.mp4', 'in_overlay.mp4']
    seen.clear()
    most[0] = 4
    with pytest.raises(KeyboardInterrupt):
        call_tool('predict', *line, tmp_path / 'out')
    assert not list((tmp_path / 'out').glob('*.mp4'))  # nothing that looks whole
    most[0] = None
    seen.clear()
    assert call_tool('predict', *line, tmp_path / 'out', '--resume') == 0 and len(seen) == 2
    assert content(tmp_path / 'out') == content(tmp_path / 'whole')
    assert len(list(VideoReader(tmp_path / 'out' / 'in_overlay.mp4'))) == 6  # the mark at its end does not disturb
    assert call_tool('predict', *line, tmp_path / 'out', '--resume') == 0 and len(seen) == 2
    assert 'in.mp4: exists already' in capsys.readouterr().out


def test_two_models_are_not_mixed(case, tmp_path):
    config, weights, images = case
    other = write_weights(config, tmp_path / 'other.pth', seed=1)
    out = tmp_path / 'out'
    assert call_tool('predict', config, weights, images / '0.png', '--out', out) == 0
    for line in ([config, other, images / '0.png'], [config, weights, images / '0.png', '--opacity', '.3']):
        with pytest.raises(FileExistsError, match='0_overlay.png was made from another image or checkpoint'):
            call_tool('predict', *line, '--out', out, '--resume')
    changed = tmp_path / '0.png'
    write_image(changed, read_image(images / '1.png'))
    with pytest.raises(FileExistsError, match='was made from another image'):
        call_tool('predict', config, weights, changed, '--out', out, '--resume')
    write_image(out / '0_overlay.png', read_image(images / '1.png'))  # written by another program
    assert mark_of(out / '0_overlay.png') is None
    with pytest.raises(FileExistsError, match='was made from another image'):
        call_tool('predict', config, weights, images / '0.png', '--out', out, '--resume')


def test_ctrl_c_says_how_to_go_on(case, tmp_path, stopping, capsys, monkeypatch):
    config, weights, images = case
    stopping[1][0] = 1
    line = ['predict', config, str(weights), str(images), '--out', str(tmp_path / 'out')]
    monkeypatch.setattr(sys, 'argv', ['mmseg-invattn', *line])
    assert main(line) == 130
    assert re.search(
        r'interrupted\. The finished results are in .*out\. To continue: .* --resume', capsys.readouterr().err
    )
    with pytest.raises(SystemExit):
        predict.parse_args([*line[1:], '--resume', '--overwrite'])


@pytest.mark.slow
def test_memory_of_a_thousand_sizes(tmp_path):
    """With a thousand image sizes, the programs that the CPU backend keeps would take 85 MB and more."""
    base, _ = write_tool_case(tmp_path)
    config = attention_config(tmp_path, base, form='certified')
    weights = write_weights(config, tmp_path / 'attention.pth')
    folder = tmp_path / 'many'
    folder.mkdir()
    generator = np.random.default_rng(0)
    for i in range(1000):
        size = (*generator.integers(24, 96, 2), 3)
        cv2.imwrite(str(folder / f'{i:04}.png'), generator.integers(0, 256, size, dtype=np.uint8))
    script = f"""
import resource
from mmseg_invattn.visualization.prediction import Painter
from mmseg_invattn.cli import predict
plain, used = Painter.predict, []
def counting(self, loaded):
    used.append(int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize() / 2**20)
    return plain(self, loaded)
Painter.predict = counting
assert predict.main([{str(config)!r}, {str(weights)!r}, {str(folder)!r}, '--out', {str(tmp_path / 'out')!r}]) == 0
print(*used[::100], used[-1])
"""
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', script], env=tool_environment(), capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-3000:]
    used = [float(number) for number in done.stdout.strip().split('\n')[-1].split()]
    assert len(list((tmp_path / 'out').iterdir())) == 2000
    assert used[-1] - used[0] < MOST and used[-1] - used[5] < MOST / 3, used
