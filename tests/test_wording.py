"""Singular and plural in messages."""

import pytest

from mmseg_invattn.wording import counted


@pytest.mark.parametrize(
    'number, noun, text',
    [
        (1, 'image', '1 image'),
        (0, 'image', '0 images'),
        (1200, 'class', '1200 classes'),
        (12_000, 'pixel', '12,000 pixels'),
        (2, 'entry', '2 entries'),
        (2, 'ray', '2 rays'),
    ],
)
def test_counted(number, noun, text):
    assert counted(number, noun) == text
