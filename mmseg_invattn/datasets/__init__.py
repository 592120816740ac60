"""Data sets, strict loading transforms, the checks of data sets and the resumable sampler."""

from .camvid import CamVidDataset
from .celeba import CelebADataset
from .check_hook import DatasetCheckHook
from .checked_dataset import CheckedSegDataset
from .checks import check_data_folders, check_dataset_files
from .cifar10 import Cifar10Dataset
from .cifar10_classification import Cifar10Classification
from .context_shapes import ContextShapesDataset
from .loading import StrictLoadAnnotations, StrictLoadImageFromFile
from .samplers import ResumableInfiniteSampler
from .seed_transforms import SeedTransforms
from .svhn import SVHNDataset

__all__ = [
    'CamVidDataset',
    'CelebADataset',
    'CheckedSegDataset',
    'Cifar10Classification',
    'Cifar10Dataset',
    'ContextShapesDataset',
    'DatasetCheckHook',
    'ResumableInfiniteSampler',
    'SVHNDataset',
    'SeedTransforms',
    'StrictLoadAnnotations',
    'StrictLoadImageFromFile',
    'check_data_folders',
    'check_dataset_files',
]
