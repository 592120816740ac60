"""Pictures of the demo: predictions with their legend, and the inverse with error and bound."""

import numpy as np
import pytest
import torch
from PIL import Image

from mmseg_invattn.experiments import demo_pictures
from mmseg_invattn.experiments.demo_pictures import OVERVIEW, draw, one_of_each

IMAGES = 3
CLASSES = ('background', 'shape_a', 'shape_b')


def made_up(inverse=True, error=1e-6):
    """Results of an ordinary model and, with ``inverse``, of one that inverts its features with errors of this size."""
    rng = np.random.default_rng(0)
    truths = []
    for number in range(IMAGES):
        truth = np.zeros((48, 96), np.int64)
        truth[10:30, 10:40] = 2 if number == 2 else 1
        truths.append(truth)
    common = dict(
        classes=CLASSES,
        palette=[[0, 0, 0], [220, 40, 40], [40, 90, 230]],
        images=[rng.integers(0, 256, (48, 96, 3), dtype=np.uint8) for _ in truths],
        truths=truths,
        predictions=truths,
        miou=91.25,
    )
    results = {'no attention': common}
    if inverse:
        torch.manual_seed(0)
        seen = [torch.randn(16, 12, 24) for _ in truths]
        recovered = [x + error * torch.randn_like(x) for x in seen]
        errors = [float((y - x).norm(dim=0).max()) for x, y in zip(seen, recovered, strict=True)]
        results['invertible'] = common | dict(
            inverted=list(zip(seen, recovered, strict=True)), errors=errors, bounds=[10 * e for e in errors]
        )
    return results


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved, by the name of their file."""
    saved, save = {}, demo_pictures.save_figure
    monkeypatch.setattr(
        demo_pictures, 'save_figure', lambda figure, file: (saved.update({file.name: figure}), save(figure, file))
    )
    return saved


def words(figure):
    """Every text of a figure, by way of those that draw it."""
    return ' | '.join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, 'get_text')))


def test_a_picture_for_each_image_and_one_of_all(tmp_path, figures):
    draw(made_up(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f'000{i}.png' for i in range(IMAGES)] + [OVERVIEW]
    with Image.open(tmp_path / OVERVIEW) as picture:
        assert picture.width >= 800 and picture.convert('RGB').getpixel((2, 2)) == (255, 255, 255)
    said = words(figures[OVERVIEW])
    for part in (
        *CLASSES,
        'invertible: 91.2 mIoU',
        'recovered',
        'norm over channels',
        'certified bound',
        'all 3 images',
    ):
        assert part in said, part
    found = made_up()['invertible']
    for index in (0, 2):  # the first of each class
        assert f'largest {found["errors"][index]:.1e}, certified bound {found["bounds"][index]:.1e}' in said
    assert said.count('largest') == 2


def test_without_an_inverse_there_are_predictions_alone(tmp_path, figures):
    demo_pictures._draw(made_up(inverse=False), [0], tmp_path / '0000.png')
    assert 'Inverse' not in words(figures['0000.png']) and 'ground truth' in words(figures['0000.png'])


def test_an_exact_inverse_is_drawn(tmp_path, figures):
    demo_pictures._draw(made_up(error=0.0), [0], tmp_path / '0000.png')
    assert 'largest 0.0e+00' in words(figures['0000.png'])


def test_one_image_of_each_class():
    empty, one, two = np.zeros((2, 2), int), np.ones((2, 2), int), np.full((2, 2), 2)
    assert one_of_each([empty, one, one, two]) == [1, 3]
    assert one_of_each([empty, np.array([[1, 2]])]) == [1]
    assert one_of_each([empty, empty]) == [0]
