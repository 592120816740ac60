"""Our configs against those that ship with the installed MMSegmentation: equal but for what is changed on purpose."""

import copy
import inspect
from pathlib import Path

import mmseg
import pytest
from helpers.checkout import ROOT
from helpers.config_cases import load
from mmengine.config import Config
from mmseg.models.decode_heads import NLHead

OURS = ROOT / 'configs'
THEIRS = Path(mmseg.__file__).parent / '.mim' / 'configs'
FOLDER = {'nonlocal': 'nonlocal_net'}  # ours -> theirs, where the names differ
METHODS = ('danet', 'deeplabv3', 'deeplabv3plus', 'fcn', 'nonlocal', 'pspnet')
LEAVES = [path for method in METHODS for path in sorted((OURS / method).glob('*.py'))]
# Entries of ours that theirs lack.
ADDED = {'custom_imports', 'default_hooks', 'randomness', 'sync_bn', 'auto_scale_lr', 'num_classes'}

pytestmark = pytest.mark.skipif(not THEIRS.is_dir(), reason='this MMSegmentation ships no configs')


def changed(config: object) -> object:
    """What we make of a part of their config: SyncBN where training is distributed, samplers that can be resumed."""
    if isinstance(config, dict):
        config = {key: changed(value) for key, value in config.items()}
        renamed = {'SyncBN': 'BN', 'InfiniteSampler': 'ResumableInfiniteSampler'}
        if isinstance(config.get('type'), str):
            config['type'] = renamed.get(config['type'], config['type'])
        return config
    if isinstance(config, (list, tuple)):
        return type(config)(changed(value) for value in config)
    return config


def strict(pipeline: list[dict], num_classes: int) -> list[dict]:
    """What we make of their training pipeline: seeded, and strict about broken files."""
    first, second, *rest = pipeline
    assert (first, second['type']) == (dict(type='LoadImageFromFile'), 'LoadAnnotations')
    return [
        dict(type='SeedTransforms'),
        dict(type='StrictLoadImageFromFile'),
        dict(second, type='StrictLoadAnnotations', num_classes=num_classes),
        *rest,
    ]


def expected(path: Path, num_classes: int | None) -> dict:
    """Their config with all of our changes."""
    config = changed(Config.fromfile(path).to_dict())
    config.pop('default_hooks', None)  # part of their schedules; ours stand in default_runtime.py
    if 'log_processor' in config:  # small numbers in the log
        config['log_processor']['type'] = 'SignificantLogProcessor'
    if 'train_pipeline' in config:
        config['train_pipeline'] = strict(config['train_pipeline'], num_classes)
        outer = config['train_dataloader']['dataset']
        parts = [config[name] for name in ('dataset_train', 'dataset_aug') if name in config]
        for dataset in [*outer.get('datasets', [outer]), *parts]:
            dataset['pipeline'] = copy.deepcopy(config['train_pipeline'])
    return config


def check(ours: Path, theirs: Path) -> None:
    config = load(ours).to_dict()
    wanted = expected(theirs, config.get('num_classes'))
    if 'train_pipeline' in wanted and 'tta_pipeline' not in wanted:
        config.pop('tta_pipeline'), config.pop('img_ratios')  # ours can all be tested with --tta
    head = wanted.get('model', {}).get('decode_head', {})
    if (
        head.get('type') == 'NLHead'
    ):  # ours leaves out what the head takes by default, so that its twin has nothing of it
        parameters = inspect.signature(NLHead.__init__).parameters
        assert all(head.pop(name) == parameters[name].default for name in ('mode', 'reduction', 'use_scale'))
    assert {key: value for key, value in config.items() if key not in ADDED} == wanted


@pytest.mark.parametrize('method', METHODS)
def test_model(method):
    check(OURS / f'_base_/models/{method}_r50-d8.py', THEIRS / f'_base_/models/{method}_r50-d8.py')


@pytest.mark.parametrize(
    'ours, theirs',
    [
        ('cityscapes_512x1024', 'cityscapes'),
        ('ade20k', 'ade20k'),
        ('pascal_voc12_aug', 'pascal_voc12_aug'),
        ('pascal_context', 'pascal_context'),
        ('pascal_context_59', 'pascal_context_59'),
        ('coco-stuff164k', 'coco-stuff164k'),
    ],
)
def test_dataset(ours, theirs):
    check(OURS / f'_base_/datasets/{ours}.py', THEIRS / f'_base_/datasets/{theirs}.py')


@pytest.mark.parametrize('iters', ['20k', '40k', '80k', '160k'])
def test_schedule(iters):
    check(OURS / f'_base_/schedules/schedule_{iters}.py', THEIRS / f'_base_/schedules/schedule_{iters}.py')


def test_runtime():
    check(OURS / '_base_/default_runtime.py', THEIRS / '_base_/default_runtime.py')
    ours = Config.fromfile(OURS / '_base_/default_runtime.py').default_hooks
    theirs = Config.fromfile(THEIRS / '_base_/schedules/schedule_40k.py').default_hooks
    assert ours.pop('checkpoint').type == 'AtomicCheckpointHook'
    own = ('constant_weights', 'iteration_seed', 'non_finite_loss', 'dataset_check', 'certificate')
    assert [ours.pop(name).type for name in own] == [
        'ConstantWeightsHook',
        'IterationSeedHook',
        'NonFiniteLossHook',
        'DatasetCheckHook',
        'CertificateHook',
    ]
    theirs.pop('checkpoint')
    assert ours == theirs


def test_leaf():
    """Every config of a method of theirs, on a data set on which they have one, is theirs."""
    compared = 0
    for path in LEAVES:
        theirs = THEIRS / FOLDER.get(path.parent.name, path.parent.name) / path.name
        if theirs.is_file():
            check(path, theirs)
            compared += 1
    assert compared >= 38
