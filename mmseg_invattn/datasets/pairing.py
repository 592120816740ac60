"""Compares the files in the folders of a data set with those that it reads, so that none is left out silently.

MMSegmentation reads only the files whose names end in exactly the suffix, and skips broken links. An image called
``.JPG`` among ``.jpg`` files, or a link whose target is missing, is therefore left out without a message, and its label
stays unused.
"""

import os
import os.path as osp
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence

from mmengine.dataset import BaseDataset
from mmengine.fileio import get_file_backend
from mmengine.fileio.backends import LocalBackend
from mmseg.datasets import BaseSegDataset

from ..wording import counted
from .leaves import needs_labels

SHOWN = 3  # files that a message names


def is_local(path: str, backend_args: dict | None = None) -> bool:
    """Whether a path is on the local disk, where looking for files is cheap."""
    return isinstance(get_file_backend(path, backend_args=backend_args), LocalBackend)


def lies_here(leaf: BaseDataset) -> bool:
    """Whether the images of a data set lie on the local disk."""
    return is_local(leaf.data_prefix.get('img_path', ''), getattr(leaf, 'backend_args', None))


def lists_whole_folder(leaf: BaseDataset) -> bool:
    """Whether a data set takes every image of its folder. One with an ``ann_file`` or its own loading need not."""
    cls = type(leaf)
    return (
        isinstance(leaf, BaseSegDataset)
        and not (leaf.ann_file and not osp.isdir(leaf.ann_file))
        and cls.load_data_list.__module__.startswith(('mmseg.datasets.', 'mmseg_invattn.datasets.'))
        and cls.filter_data is BaseDataset.filter_data
    )


def _files(folder: str) -> Iterator[os.DirEntry]:
    """All files below a folder except hidden ones; links are followed, as MMEngine follows them."""
    for entry in os.scandir(folder):
        if entry.is_dir():
            yield from _files(entry.path)
        elif not entry.name.startswith('.'):
            yield entry


def why_no_file(path: str) -> str:
    """Why no file can be read at a path, in a few words; empty if no reason is known."""
    if osp.islink(path):
        return f'it is a link to {os.readlink(path)}, which does not exist'
    if osp.lexists(path):
        return 'it is not a file'
    folder, name = osp.split(path)
    try:
        alike = [other for other in sorted(os.listdir(folder or '.')) if other.lower() == name.lower()]
    except OSError:
        return ''
    return f'there is {alike[0]}, and capitals count' if alike else ''


def skipped_files(folder: str, suffix: str) -> list[tuple[str, str]]:
    """Files that a listing by suffix leaves out although they are probably meant: paths, and the reason for each.

    Args:
        folder: A local folder; its sub-folders count.
        suffix: Ending of the names that are read.
    """
    found = []
    for entry in _files(folder):
        if not entry.name.lower().endswith(suffix.lower()):
            continue
        if not entry.name.endswith(suffix):
            found.append((entry.path, f'the names of the others end in {suffix}, and capitals count'))
        elif not entry.is_file():
            found.append((entry.path, why_no_file(entry.path)))
    return sorted(found)


def unreadable(path: str) -> bool:
    """Whether the permissions of a file keep this user from reading it."""
    return not os.access(path, os.R_OK)


def label_folder(leaf: BaseDataset) -> str:
    """The folder of the labels of a data set; empty if it has none."""
    return osp.normpath(osp.abspath(leaf.data_prefix['seg_map_path'])) if leaf.data_prefix.get('seg_map_path') else ''


def labels_without_image(leaves: Iterable[BaseDataset], shared: Collection[str] = ()) -> list[str]:
    """Label files for which none of the data sets has an image.

    Data sets that share a label folder are taken together. A folder is not checked if one of its data sets uses only
    some of the images (by a list or by ``indices``), because the other labels are then meant to be unused.

    Args:
        leaves: Data sets whose files are local.
        shared: Label folders that other data sets use too; they are not checked.
    """
    by_folder: dict[str, list[BaseDataset]] = defaultdict(list)
    for leaf in leaves:
        if label_folder(leaf):
            by_folder[label_folder(leaf)].append(leaf)
    found = []
    for folder, those in by_folder.items():
        partial = any(not lists_whole_folder(leaf) or leaf._indices is not None for leaf in those)
        if partial or folder in shared or not osp.isdir(folder):
            continue
        used = {osp.abspath(leaf.get_data_info(i)['seg_map_path']) for leaf in those for i in range(len(leaf))}
        suffixes = tuple({leaf.seg_map_suffix for leaf in those})
        given = those[0].data_prefix['seg_map_path']
        for entry in _files(folder):
            if entry.name.endswith(suffixes) and entry.path not in used:
                found.append(osp.join(given, osp.relpath(entry.path, folder)))
    return sorted(found)


def check_all_are_read(folder: str, suffix: str) -> None:
    """Check that a listing by suffix leaves out no image below a local folder.

    Raises:
        ValueError: It leaves one out.
    """
    skipped = skipped_files(folder, suffix)
    if skipped:
        path, why = skipped[0]
        more = f'; so would {counted(len(skipped) - 1, "other file")}' if len(skipped) > 1 else ''
        raise ValueError(
            f'The image {path} would be left out: {why}{more}. Every image in the folder of a data set is read. '
            f'Fix: rename, replace or remove it.'
        )


def check_label_partners(leaves: Sequence[BaseDataset], shared: Collection[str] = ()) -> None:
    """Check that every label in the folders of local data sets has its image.

    Args:
        leaves: All data sets of a run; those that share a label folder are taken together.
        shared: Label folders that other data sets use too; they are not checked.

    Raises:
        FileNotFoundError: A label has no image.
    """
    found = labels_without_image([leaf for leaf in leaves if needs_labels(leaf) and lies_here(leaf)], shared)
    if found:
        raise FileNotFoundError(
            f'{counted(len(found), "label")} without an image of the same name: {some(found)}. Every label needs its '
            'image. Fix: add the image, remove the label, or list the images of the data set in ann_file.'
        )


def some(files: list[str]) -> str:
    """The first files of a list, for a message."""
    more = f' and {len(files) - SHOWN} more' if len(files) > SHOWN else ''
    return f'{", ".join(files[:SHOWN])}{more}'
