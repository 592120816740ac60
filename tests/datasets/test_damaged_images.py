"""Damage that a decoder reports is an error; its messages about undamaged files are not."""

import io
import os

import cv2
import numpy as np
import pytest
from PIL import Image

from mmseg_invattn.datasets.decoder_messages import decoder_messages
from mmseg_invattn.datasets.image_files import decode, orientation

RNG = np.random.default_rng(0)
IMAGE = cv2.resize(RNG.integers(0, 256, (12, 16, 3), dtype=np.uint8), (160, 120))
JPEGS = dict(baseline=(), progressive=(cv2.IMWRITE_JPEG_PROGRESSIVE, 1), restarts=(cv2.IMWRITE_JPEG_RST_INTERVAL, 4))


def jpeg(kind: str) -> bytes:
    return cv2.imencode('.jpg', IMAGE, [cv2.IMWRITE_JPEG_QUALITY, 95, *JPEGS[kind]])[1].tobytes()


def saved(kind: str, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(IMAGE).save(file, kind, **options)
    return file.getvalue()


def overwritten(data: bytes, count: int = 400) -> bytes:
    start = len(data) // 2
    noise = RNG.integers(0, 255, count, dtype=np.uint8).tobytes()  # no markers of JPEG
    return data[:start] + noise + data[start + count :]


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
@pytest.mark.parametrize('kind', JPEGS)
def test_damaged_scan(kind, backend, capfd):
    whole = jpeg(kind)
    assert decode(whole, 'x.jpg', 'color', backend).shape == IMAGE.shape
    for damaged in (overwritten(whole), whole[: len(whole) // 2] + b'\xff\xd9'):
        with pytest.raises(ValueError, match=r'x\.jpg is damaged: its decoder says "Corrupt JPEG data: .*Fix: '):
            decode(damaged, 'x.jpg', 'color', backend)
    assert capfd.readouterr().err == ''  # it is in the message


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
@pytest.mark.parametrize(
    'kind, options',
    [
        ('TIFF', dict(compression='tiff_lzw')),
        ('TIFF', dict(compression='tiff_adobe_deflate')),
        ('TIFF', dict()),
        ('BMP', dict()),
        ('WEBP', dict(quality=90)),
        ('PNG', dict()),
    ],
)
def test_other_formats(kind, options, backend):
    whole = saved(kind, **options)
    assert decode(whole, 'x', 'color', backend).shape == IMAGE.shape
    damaged = [whole[: len(whole) // 2]]
    if options.get('compression') == 'tiff_lzw' or kind == 'PNG':  # the other decoders notice it rarely or never
        damaged.append(overwritten(whole, 100))
    for data in damaged:
        with pytest.raises(ValueError, match='image file x.*Fix: '):
            decode(data, 'x', 'color', backend)


def test_harmless_messages_pass_and_are_printed(capfd):
    with decoder_messages() as messages:
        os.write(2, b'libpng warning: iCCP: known incorrect sRGB profile\nCorrupt JPEG data: bad ICC marker\n')
    assert messages.damage() is None and capfd.readouterr().err == messages.text != ''
    with decoder_messages() as messages:
        os.write(2, b'another thread\nCorrupt JPEG data: premature end of data segment\n')
    assert messages.damage() == 'Corrupt JPEG data: premature end of data segment'
    assert capfd.readouterr().err == 'another thread\n'


def test_errors_pass_through_and_standard_error_comes_back(capfd):
    before = len(os.listdir('/proc/self/fd')) if os.path.isdir('/proc/self/fd') else None
    with pytest.raises(ZeroDivisionError), decoder_messages():
        raise ZeroDivisionError
    os.write(2, b'back')
    assert capfd.readouterr().err == 'back'
    assert before is None or len(os.listdir('/proc/self/fd')) == before


def test_closed_standard_error():
    kept = os.dup(2)
    os.close(2)
    try:
        with pytest.raises(ValueError, match='is damaged'):
            decode(overwritten(jpeg('baseline')), 'x.jpg', 'color', 'cv2')
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def test_orientation_is_read_from_every_format_that_has_it():
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ('JPEG', 'PNG', 'WEBP', 'TIFF'):
        assert orientation(saved(kind, exif=exif)) == 6
    assert orientation(jpeg('baseline')) == orientation(b'no image') == 1
    exif[0x0112] = 77
    assert orientation(saved('JPEG', exif=exif)) == 1
