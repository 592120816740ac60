"""Checks of whole data sets: the folders exist and are not empty, and every image has its label.

MMSegmentation itself notices a missing label only when a worker draws that image, and an empty folder only as an error
in ``np.concatenate``. It never notices a wrong label value. These checks report all three before the first iteration.
"""

import difflib
import inspect
import os.path as osp
from collections.abc import Mapping, Sequence
from typing import Any

import mmengine.fileio as fileio
from mmcv.transforms import LoadImageFromFile
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import DATASETS

from .leaves import label_classes, leaf_configs, leaf_datasets, needs_labels, pipelines
from .loading import StrictLoadAnnotations, StrictLoadImageFromFile
from .pairing import check_all_are_read, is_local, lies_here, lists_whole_folder, unreadable, why_no_file

SPLITS = ('train', 'val', 'test')
# Endings that a data set with img_suffix=None looks for, in small letters or in capitals.
IMAGE_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp')
_PREPARE = 'Fix: prepare the data as data/README.md says, or set data_root and data_prefix in the config.'


def check_folder(folder: str, suffix: str | Sequence[str] | None = None, what: str = 'data') -> None:
    """Refuse a local folder that is missing or holds no file with the suffix.

    Args:
        folder: The folder; its sub-folders count.
        suffix: Ending (or endings) of the file names; None accepts every file.
        what: What lies in it, for the message: ``'image'`` or ``'label'``.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds no such file.
    """
    if not osp.isdir(folder):
        raise FileNotFoundError(
            f'The {what} folder {folder} does not exist (looked up as {osp.abspath(folder)}). '
            f'Every data_prefix of a data set must be a folder. {_PREPARE}'
        )
    endings = (suffix,) if isinstance(suffix, str) else suffix
    files = fileio.list_dir_or_file(folder, list_dir=False, suffix=tuple(endings) if endings else None, recursive=True)
    if next(iter(files), None) is not None:
        return
    files = fileio.list_dir_or_file(folder, list_dir=False, recursive=True)
    alike = next((name for name in files if endings and name.lower().endswith(tuple(map(str.lower, endings)))), None)
    if alike is None or endings is not IMAGE_SUFFIXES:  # IMAGE_SUFFIXES match in capitals too
        names = ' or '.join(f'*{ending}' for ending in endings) if endings else 'any file'
        raise ValueError(
            f'The {what} folder {folder} holds no {names} (looked up as {osp.abspath(folder)}). '
            + (f'It holds {alike}, and capitals count. ' if alike else '')
            + f'A data set needs at least one. {_PREPARE}'
        )


def value_of(config: Mapping, name: str) -> Any:
    """Value of a data set's constructor argument: from the config, else the class's default, else None."""
    if name in config:
        return config[name]
    kind = config.get('type')
    cls = kind if inspect.isclass(kind) else DATASETS.get(kind) if kind else None
    for base in inspect.getmro(cls) if cls else ():
        parameter = inspect.signature(base.__init__).parameters.get(name)
        if parameter is not None and parameter.default is not inspect.Parameter.empty:
            return parameter.default
    return None


def check_data_folders(cfg: dict, splits: Sequence[str] = SPLITS) -> None:
    """Check the data folders of a config before anything is built from it.

    Args:
        cfg: Whole config with ``train_dataloader``, ``val_dataloader``, ``test_dataloader`` (those that are there).
        splits: The dataloaders to look at. Training needs ``('train', 'val')``, testing needs ``('test', )``.

    Raises:
        FileNotFoundError: A folder or an ``ann_file`` is missing.
        ValueError: A folder holds no file with the data set's suffix, or ``data_prefix`` has a misspelt entry.
    """
    for split in splits:
        loader = cfg.get(f'{split}_dataloader') or {}
        for config in leaf_configs(loader['dataset']) if loader.get('dataset') else ():
            _check_prefix_names(config.get('data_prefix') or {}, split)
            root = config.get('data_root') or ''
            backend_args = config.get('backend_args')
            ann_file = config.get('ann_file')
            if ann_file and is_local(ann_file, backend_args) and not osp.exists(osp.join(root, ann_file)):
                raise FileNotFoundError(
                    f'The list of images {osp.join(root, ann_file)} (ann_file of the {split} data '
                    f'set) does not exist. {_PREPARE}'
                )
            for key, what, suffix in (('img_path', 'image', 'img_suffix'), ('seg_map_path', 'label', 'seg_map_suffix')):
                prefix = (config.get('data_prefix') or {}).get(key)
                folder = osp.join(root, prefix) if prefix is not None else ''
                if folder and is_local(folder, backend_args):
                    endings = value_of(config, suffix) or (IMAGE_SUFFIXES if what == 'image' else None)
                    check_folder(folder, endings, f'{split} {what}')


def _check_prefix_names(prefix: dict, split: str) -> None:
    for name in prefix:
        meant = difflib.get_close_matches(name, ('img_path', 'seg_map_path'), 1, 0.75)
        if meant and name not in meant and not name[-1].isdigit():  # img_path2 is the second image of a pair
            raise ValueError(
                f'data_prefix of the {split} data set has the entry {name!r}, which nothing reads. The entries are '
                f'img_path and seg_map_path. Fix: write {meant[0]!r}.'
            )


def check_dataset_files(dataset: object) -> int:
    """Check that a built data set has images, that each has its file and its label file, and that none is left out.

    A label is required only if the pipeline loads labels, so that a test split without labels can be predicted. Files
    on remote storage are not checked here but by the loading transforms.

    Args:
        dataset: A data set or a wrapper of data sets.

    Returns:
        Number of images looked at.

    Raises:
        ValueError: A data set has no images, or its folder holds an image file that the data set would not read.
        FileNotFoundError: An image or a label file is missing.
        PermissionError: The permissions of a file keep this user from reading it.
    """
    count = 0
    for leaf in leaf_datasets(dataset):
        folder = leaf.data_prefix.get('img_path', '')
        if len(leaf) == 0:
            raise ValueError(
                f'{type(leaf).__name__} on {folder} has no images. A data set needs at least one. {_PREPARE}'
            )
        if not lies_here(leaf):
            continue
        if lists_whole_folder(leaf):
            check_all_are_read(folder, leaf.img_suffix)
        labelled = needs_labels(leaf)
        for index in range(len(leaf)):
            info = leaf.get_data_info(index)
            image, label = info['img_path'], info.get('seg_map_path')
            if not osp.isfile(image):
                raise FileNotFoundError(
                    f'The image file {image} does not exist{_because(image)}. Every image that {leaf.ann_file!r} '
                    f'(ann_file) lists needs its file. {_PREPARE}'
                )
            if labelled and (label is None or not osp.isfile(label)):
                raise FileNotFoundError(
                    f'The image {image} has no label: {label} does not exist{_because(label)}. Every image needs a '
                    'label file of the same name. Fix: add the label, or remove the image.'
                )
            for path in (image, label) if labelled else (image,):
                if unreadable(path):
                    raise PermissionError(
                        f'The file {path} cannot be read: its permissions do not allow it to this user. '
                        f'Fix: chmod a+r {path}'
                    )
        count += len(leaf)
    return count


def strict_image_loader(transform: object) -> object:
    """The strict counterpart of MMSegmentation's image loader; any other transform is returned unchanged."""
    if type(transform) is not LoadImageFromFile or transform.ignore_empty or transform.file_client_args is not None:
        return transform
    return StrictLoadImageFromFile(
        transform.to_float32, transform.color_type, transform.imdecode_backend, backend_args=transform.backend_args
    )


def _because(path: str | None) -> str:
    why = why_no_file(path) if path else ''
    return f' ({why})' if why else ''


def shared_label_folders(cfg: dict, splits: Sequence[str]) -> set[str]:
    """Absolute paths of the label folders that other splits of the config use too, for other images."""
    mine, others = _label_folders(cfg, splits), _label_folders(cfg, [s for s in SPLITS if s not in splits])
    return {folder for folder, images in others.items() if images - mine.get(folder, set())}


def _label_folders(cfg: dict, splits: Sequence[str]) -> dict[str, set[str]]:
    """Each label folder, and the image folders whose labels it holds."""
    found: dict[str, set[str]] = {}
    for split in splits:
        loader = cfg.get(f'{split}_dataloader') or {}
        for config in leaf_configs(loader['dataset']) if loader.get('dataset') else ():
            root, prefix = config.get('data_root') or '', config.get('data_prefix') or {}
            if prefix.get('seg_map_path') is not None:
                folder = osp.abspath(osp.join(root, prefix['seg_map_path']))
                found.setdefault(folder, set()).add(osp.abspath(osp.join(root, prefix.get('img_path') or '')))
    return found


def make_loading_strict(dataset: object) -> None:
    """Replace the plain loading transforms of a built data set by the strict ones.

    Test pipelines must name ``LoadImageFromFile`` and ``LoadAnnotations``, because MMSegmentation's inference looks
    for exactly these names. They are therefore replaced only after the data set is built. A loader with
    ``ignore_empty`` stays as it is, because that option asks for broken images to be skipped.

    Args:
        dataset: A data set or a wrapper of data sets; it is changed in place. Workers that already run keep the old
            transforms.
    """
    for leaf in leaf_datasets(dataset):
        classes = label_classes(leaf)
        for pipeline in pipelines(leaf.pipeline):
            for position, old in enumerate(pipeline.transforms):
                pipeline.transforms[position] = strict_image_loader(old)
                if type(old) is LoadAnnotations and classes:
                    pipeline.transforms[position] = StrictLoadAnnotations(
                        len(classes), leaf.ignore_index, old.reduce_zero_label, old.backend_args, old.imdecode_backend
                    )
