"""The base configs of the public data sets, each on a made-up folder laid out as data/README.md says."""

from pathlib import Path

import numpy as np
import pytest
from helpers.checkout import ROOT
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.registry import DATASETS
from PIL import Image

from mmseg_invattn.datasets.checks import check_data_folders, check_dataset_files, make_loading_strict

BASES = ROOT / 'configs' / '_base_' / 'datasets'
# name -> classes, label values of the files (255 = ignored), folder of the labels -> its images and its list of names,
# label suffix. Labels are written with a palette, as Pascal VOC has them.
CASES = {
    'ade20k': (
        150,
        range(0, 151),
        {'annotations/training': ('images/training', None), 'annotations/validation': ('images/validation', None)},
        '.png',
    ),
    'pascal_voc12_aug': (
        21,
        range(0, 21),
        {
            'SegmentationClass': ('JPEGImages', 'ImageSets/Segmentation/train.txt'),
            'SegmentationClassAug': ('JPEGImages', 'ImageSets/Segmentation/aug.txt'),
        },
        '.png',
    ),
    'pascal_context': (
        60,
        range(0, 60),
        {'SegmentationClassContext': ('JPEGImages', 'ImageSets/SegmentationContext/train.txt')},
        '.png',
    ),
    'pascal_context_59': (
        59,
        range(0, 60),
        {'SegmentationClassContext': ('JPEGImages', 'ImageSets/SegmentationContext/train.txt')},
        '.png',
    ),
    'coco-stuff164k': (
        171,
        range(0, 171),
        {'annotations/train2017': ('images/train2017', None), 'annotations/val2017': ('images/val2017', None)},
        '_labelTrainIds.png',
    ),
}
REDUCED = ('ade20k', 'pascal_context_59')  # their files count classes from 1; 0 is ignored
SIZE = (40, 60)


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmseg')


def write_label(path: Path, label: np.ndarray) -> None:
    image = Image.fromarray(label)
    image.putpalette(list(range(256)) * 3)
    image.save(path)


def fill(root: Path, name: str) -> None:
    """Two images for each list: all label values of the data set stand in the second row, 255 in the first."""
    _, values, folders, suffix = CASES[name]
    lists = {}
    for position, (labels, (images, listed)) in enumerate(folders.items()):
        for index in range(2):
            stem = f'{position}_{index}'
            for folder in (labels, images):
                (root / folder).mkdir(parents=True, exist_ok=True)
            label = np.resize(np.array(values, np.uint8), SIZE)
            label[0] = 255
            write_label(root / labels / f'{stem}{suffix}', label)
            Image.fromarray(np.full((*SIZE, 3), 100, np.uint8)).save(root / images / f'{stem}.jpg')
            lists.setdefault(listed, []).append(stem)
    for listed, stems in lists.items():
        if listed:
            (root / listed).parent.mkdir(parents=True, exist_ok=True)
            (root / listed).write_text('\n'.join(stems) + '\n')
            # the validation list, with the labels of the first folder
            (root / listed).with_name('val.txt').write_text('0_0\n0_1\n')


@pytest.fixture(params=CASES)
def case(request, tmp_path):
    fill(tmp_path, request.param)
    cfg = Config.fromfile(BASES / f'{request.param}.py')
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        for part in dataset.get('datasets', [dataset]):
            part.data_root = str(tmp_path)
        cfg[f'{split}_dataloader'].update(num_workers=0, persistent_workers=False)
    return request.param, cfg, tmp_path


def classes_of(name: str) -> set[int]:
    return set(range(CASES[name][0])) | {255}


def test_config_is_consistent(case):
    name, cfg, _ = case
    classes = CASES[name][0]
    assert cfg.num_classes == cfg.train_pipeline[2].num_classes == classes
    assert len(DATASETS.get(cfg.dataset_type).METAINFO['classes']) == classes


def test_training_samples(case):
    """Labels come out as classes from 0 and as 255, at the size of the crop or less."""
    name, cfg, _ = case
    check_data_folders(cfg)
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    assert check_dataset_files(loader.dataset) == len(loader.dataset) == (4 if name == 'pascal_voc12_aug' else 2)
    batch = next(iter(loader))
    assert len(batch['inputs']) == 4
    for image, sample in zip(batch['inputs'], batch['data_samples'], strict=True):
        assert max(image.shape[1] / cfg.crop_size[0], image.shape[2] / cfg.crop_size[1]) <= 1
        assert sample.gt_sem_seg.shape == image.shape[1:]
        assert set(sample.gt_sem_seg.data.unique().tolist()) <= classes_of(name)


def test_label_values(case):
    """Loaded strictly, every class is there, and nothing else; the plain loader of the test pipeline agrees."""
    name, cfg, _ = case
    train = cfg.train_dataloader.dataset
    train = train.get('datasets', [train])[0]
    loading = [*cfg.train_pipeline[1:3], dict(type='PackSegInputs')]
    strict = DATASETS.build(dict(train, pipeline=loading))[0]['data_samples'].gt_sem_seg.data[0].numpy()
    assert (strict[0] == 255).all()
    assert set(np.unique(strict).tolist()) == classes_of(name)
    raw = np.resize(np.array(CASES[name][1], np.uint8), SIZE)[1:]
    assert (strict[1:] == (raw - np.uint8(1) if name in REDUCED else raw)).all()
    val = DATASETS.build(cfg.val_dataloader.dataset)
    plain = val[0]['data_samples'].gt_sem_seg.data
    make_loading_strict(val)
    assert (val[0]['data_samples'].gt_sem_seg.data == plain).all() and len(val) == 2


def test_label_beyond_the_classes_is_refused(case):
    name, cfg, root = case
    labels = next(iter(CASES[name][2]))
    path = root / labels / f'0_0{CASES[name][3]}'
    write_label(path, np.full(SIZE, CASES[name][1][-1] + 1, np.uint8))
    train = cfg.train_dataloader.dataset
    train = DATASETS.build(train.get('datasets', [train])[0])
    val = DATASETS.build(cfg.val_dataloader.dataset)
    make_loading_strict(val)
    with pytest.raises(ValueError, match=f'{path.name} holds the value'):
        train[0]
    if name.startswith('pascal'):  # the same files are listed for validation
        with pytest.raises(ValueError, match=f'{path.name} holds the value'):
            val[0]


def test_augmented_testing(case):
    _, cfg, _ = case
    augmented = DATASETS.build(dict(cfg.val_dataloader.dataset, pipeline=cfg.tta_pipeline))[0]
    single = DATASETS.build(cfg.val_dataloader.dataset)[0]
    assert len(augmented['inputs']) == 12
    assert (augmented['data_samples'][0].gt_sem_seg.data == single['data_samples'].gt_sem_seg.data).all()
