"""CIFAR-10, SVHN and CelebA: read from files in their formats, dequantised exactly, checked."""

import os
import pickle

import cv2
import numpy as np
import pytest
import torch
from helpers.generative_data import write_celeba, write_cifar10, write_svhn

from mmseg_invattn.datasets import CelebADataset, Cifar10Dataset, SVHNDataset
from mmseg_invattn.datasets.samplers import SampleIndex


def grey_levels(x: torch.Tensor) -> np.ndarray:
    """The 8-bit image of a dequantised one."""
    return ((x + 0.5) * 256).floor().byte().numpy()


@pytest.fixture(scope='module')
def cifar10(tmp_path_factory):
    root = tmp_path_factory.mktemp('cifar10')
    return root, write_cifar10(root)


def test_cifar10_images_are_those_of_the_file(cifar10):
    root, test_images = cifar10
    train, test = (Cifar10Dataset(str(root), split, verify=False) for split in ('train', 'test'))
    assert (len(train), len(test)) == (40, 8)
    assert test.metainfo['classes'][3] == 'cat'
    for i in range(8):
        item = test[i]
        assert item['inputs'].shape == (3, 32, 32) and item['inputs'].dtype == torch.float32
        assert (grey_levels(item['inputs']) == test_images[i]).all()
        assert item['labels'] == test.labels[i]
    assert len(Cifar10Dataset(str(root), 'train', num_images=5, verify=False)) == 5
    assert [len(list(train)), len(list(test))] == [40, 8]  # iteration ends


def test_svhn_digits_count_from_zero(tmp_path):
    images = write_svhn(tmp_path, count=12)
    test = SVHNDataset(str(tmp_path), 'test', verify=False)
    assert [test[i]['labels'] for i in range(12)] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    assert all((grey_levels(test[i]['inputs']) == images[i]).all() for i in range(12))


def test_celeba_is_cropped_and_resized_or_left_at_full_scale(tmp_path):
    write_celeba(tmp_path, count=3)
    small, full = (CelebADataset(str(tmp_path), 'test', verify=False, size=size) for size in (32, None))
    assert len(small) == len(full) == 3 and small.names == ['000007.jpg', '000008.jpg', '000009.jpg']
    assert small[0]['inputs'].shape == (3, 32, 32) and full[0]['inputs'].shape == (3, 218, 178)
    image = cv2.imread(str(tmp_path / 'img_align_celeba' / '000008.jpg'))[..., ::-1]
    assert (grey_levels(full[1]['inputs']) == image.transpose(2, 0, 1)).all()
    expected = cv2.resize(image[20:198], (32, 32), interpolation=cv2.INTER_AREA).transpose(2, 0, 1)
    assert (grey_levels(small[1]['inputs']) == expected).all()


def test_noise_follows_the_seed_and_stays_in_its_grey_level(cifar10):
    test = Cifar10Dataset(str(cifar10[0]), 'test', verify=False)
    x = torch.stack([test[SampleIndex(0, seed)]['inputs'] for seed in range(200)])
    assert x.min() >= -0.5 and x.max() < 0.5
    assert torch.equal(x[3], test[SampleIndex(0, 3)]['inputs']) and not torch.equal(x[3], x[4])
    assert torch.equal(test[2]['inputs'], test[2]['inputs']) and not torch.equal(test[0]['inputs'], x[0])
    noise = (x + 0.5) * 256 - torch.from_numpy(test.images[0])
    assert 0 <= noise.min() and noise.max() < 1
    assert abs(noise.mean() - 0.5) < 0.01 and abs(noise.var() - 1 / 12) < 0.002
    other = Cifar10Dataset(str(cifar10[0]), 'test', verify=False, noise_seed=1)
    assert not torch.equal(other[2]['inputs'], test[2]['inputs'])


def test_crop_and_flip(cifar10):
    test = Cifar10Dataset(str(cifar10[0]), 'test', verify=False, crop=8, flip=0.5)
    central = test.images[1][:, 12:20, 12:20]
    seen = [grey_levels(test[SampleIndex(1, seed)]['inputs']) for seed in range(100)]
    flipped = sum((image == central[..., ::-1]).all() for image in seen)
    assert sum((image == central).all() for image in seen) + flipped == 100 and 30 < flipped < 70
    with pytest.raises(ValueError, match='crop=40 does not fit'):
        Cifar10Dataset(str(cifar10[0]), 'test', verify=False, crop=40)[0]


def test_shift_moves_the_window(cifar10):
    test = Cifar10Dataset(str(cifar10[0]), 'test', verify=False, shift=2)
    wide = np.pad(test.images[1], ((0, 0), (2, 2), (2, 2)), mode='symmetric')
    windows = {(top, left): wide[:, top : top + 32, left : left + 32] for top in range(5) for left in range(5)}
    images = [grey_levels(test[SampleIndex(1, seed)]['inputs']) for seed in range(500)]
    seen = [[place for place, window in windows.items() if (window == image).all()] for image in images]
    assert {place for places in seen for place in places} == set(windows) and all(len(places) == 1 for places in seen)


def test_checksum(cifar10):
    with pytest.raises(ValueError, match=r'md5 sum [0-9a-f]{32}; the published file has 40351d58.*verify=False'):
        Cifar10Dataset(str(cifar10[0]), 'test')
    assert len(Cifar10Dataset(str(cifar10[0]), 'test', verify='warn')) == 8
    with pytest.raises(ValueError, match="verify='maybe' is not"):
        Cifar10Dataset(str(cifar10[0]), 'test', verify='maybe')


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, path: str):
        self.path = path

    def __reduce__(self):
        return os.system, (f'touch {self.path}',)


def test_malicious_pickle_runs_nothing(cifar10, tmp_path):
    write_cifar10(tmp_path)
    path, trace = tmp_path / 'cifar-10-batches-py' / 'test_batch', tmp_path / 'trace'
    for batch in (Malicious(str(trace)), {'data': Malicious(str(trace)), 'labels': [0]}):
        path.write_bytes(pickle.dumps(batch))
        with pytest.raises(ValueError, match=r'asks for \w+\.system'):
            Cifar10Dataset(str(tmp_path), 'test', verify=False)
        assert not trace.exists()
        pickle.loads(path.read_bytes())
        assert trace.exists()  # the plain unpickler would have
        trace.unlink()


@pytest.mark.parametrize(
    'content',
    [
        b'',
        b'no pickle',
        pickle.dumps([1, 2]),
        pickle.dumps({'data': 1, 'labels': [1]}),
        pickle.dumps({'data': np.zeros((2, 3072)), 'labels': [0, 1]}),
        pickle.dumps({'data': np.zeros((2, 3072), np.uint8), 'labels': [0, 10]}),
        pickle.dumps({'data': np.zeros((2, 3071), np.uint8), 'labels': [0, 1]}),
    ],
)
def test_broken_cifar10_batch(tmp_path, content):
    write_cifar10(tmp_path)
    (tmp_path / 'cifar-10-batches-py' / 'data_batch_3').write_bytes(content)
    with pytest.raises(ValueError, match='data_batch_3.*cifar-10-python.tar.gz'):
        Cifar10Dataset(str(tmp_path), 'train', verify=False)


def test_missing_and_broken_files_are_named(tmp_path):
    from scipy.io import savemat

    for cls, name in (
        (Cifar10Dataset, 'data_batch_1'),
        (SVHNDataset, 'train_32x32.mat'),
        (CelebADataset, 'list_eval_partition.txt'),
    ):
        with pytest.raises(FileNotFoundError, match=f'{name} does not exist.*comes from http'):
            cls(str(tmp_path))
    (tmp_path / 'train_32x32.mat').write_bytes(b'MATLAB')
    with pytest.raises(ValueError, match='is not a .mat file with X and y'):
        SVHNDataset(str(tmp_path), verify=False)
    savemat(tmp_path / 'train_32x32.mat', {'X': np.zeros((16, 16, 3, 2), np.uint8), 'y': np.ones((2, 1))})
    with pytest.raises(ValueError, match=r'\(16, 16, 3, 2\)'):
        SVHNDataset(str(tmp_path), verify=False)


def test_celeba_faults(tmp_path):
    write_celeba(tmp_path, count=2)
    path = tmp_path / 'img_align_celeba' / '000002.jpg'
    data = path.read_bytes()
    path.write_bytes(data[:200])
    train = CelebADataset(str(tmp_path), verify=False)
    with pytest.raises(ValueError, match='000002.jpg: it is truncated'):
        train[1]
    cv2.imwrite(str(path), np.zeros((178, 178, 3), np.uint8))
    with pytest.raises(ValueError, match='178 x 178 pixels; an aligned face has 218 x 178'):
        train[1]
    path.unlink()
    with pytest.raises(FileNotFoundError, match='1 of the 2 train images.*000002.jpg'):
        CelebADataset(str(tmp_path), verify=False)
    (tmp_path / 'list_eval_partition.txt').write_text('000001.jpg 7\n')
    with pytest.raises(ValueError, match="'000001.jpg 7'"):
        CelebADataset(str(tmp_path), verify=False)
    (tmp_path / 'list_eval_partition.txt').write_text('000001.jpg 2\n')
    with pytest.raises(ValueError, match='lists no image of the train split'):
        CelebADataset(str(tmp_path), verify=False)
    with pytest.raises(ValueError, match='size=0'):
        CelebADataset(str(tmp_path), size=0)


def test_arguments(cifar10):
    root = str(cifar10[0])
    for arguments, message in (
        (dict(split='val'), "split='val'"),
        (dict(num_images=9), 'has 8 images'),
        (dict(num_images=0), 'num_images=0'),
        (dict(flip=2), 'flip=2'),
        (dict(shift=-1), 'shift=-1'),
    ):
        with pytest.raises(ValueError, match=message):
            Cifar10Dataset(root, **dict(dict(split='test', verify=False), **arguments))


def test_subset_in_the_published_layout(data_root):
    """Pickles with the opcodes of Python 2, which the published files have."""
    if not (data_root / 'cifar10').is_dir():
        pytest.skip('no CIFAR-10 subset')
    test = Cifar10Dataset(str(data_root / 'cifar10'), 'test', verify=False)
    assert len(test) == 2000 and len(np.unique(test.labels)) == 10
    assert (grey_levels(test[7]['inputs']) == test.images[7]).all()
