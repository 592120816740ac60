"""Compares the number of classes of data sets, label loaders, metrics and heads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from mmengine.dataset import BaseDataset
from mmengine.evaluator import Evaluator
from torch import nn

from ...datasets.leaves import label_classes, leaf_datasets, pipelines
from ...wording import counted
from .tree import ConfigError, dicts, dotted


def check_class_names(config: Mapping) -> None:
    """Check the classes and palettes in a config.

    Raises:
        ConfigError: The classes are not a list of names, a name occurs twice, or there are more or fewer colours than
            classes.
    """
    for keys, node in dicts(config):
        if not keys or keys[-1] != 'metainfo':
            continue
        path, classes, palette = dotted(keys), node.get('classes'), node.get('palette')
        if isinstance(classes, str) and '/' not in classes and '.' not in classes:  # otherwise it is a file of names
            raise ConfigError(
                f'{path}.classes is the string {classes!r}, but must be a list of names: a tuple of one needs a comma, '
                f'classes=({classes!r},)'
            )
        if not isinstance(classes, list | tuple):
            continue
        twice = [name for name, count in Counter(classes).items() if count > 1]
        if twice:
            raise ConfigError(
                f'{path}.classes has {twice[0]!r} twice, but every class needs its own name: rename or remove one'
            )
        if palette is not None and len(palette) != len(classes):
            raise ConfigError(
                f'{path}.palette has {counted(len(palette), "colour")} for {counted(len(classes), "class")}, but '
                'needs one colour for each class'
            )


def heads_of(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """All heads of a segmentor, the auxiliary ones included, with their paths in the config."""
    for name in ('decode_head', 'auxiliary_head'):
        head = getattr(model, name, None)
        if isinstance(head, nn.ModuleList):
            for index, one in enumerate(head):
                yield f'model.{name}.{index}', one
        elif head is not None:
            yield f'model.{name}', head


def check_heads(model: nn.Module, classes: Sequence[str], where: str) -> None:
    """Check that the number of classes of every head is that of the data.

    Raises:
        ConfigError: A head has another number.
    """
    for path, head in heads_of(model):
        count = getattr(head, 'num_classes', None)
        if classes and isinstance(count, int) and count != len(classes):
            raise ConfigError(
                f'{path}.num_classes is {count}, but {where} has {counted(len(classes), "class")} '
                f'({_listed(classes)}): set num_classes={len(classes)} in every head, or choose the classes with '
                'metainfo=dict(classes=...)'
            )


def check_classes(model: nn.Module, loaders: Mapping[str, object], evaluators: Mapping[str, Evaluator | None]) -> None:
    """Compare the classes of all parts of a run.

    Args:
        model: The model, without a wrapper.
        loaders: Split (``train``, ``val``, ``test``) -> its data set.
        evaluators: Split -> its evaluator.

    Raises:
        ConfigError: Two numbers of classes differ, splits have different class names, or a class is ignored.
    """
    ignored = {path: head.ignore_index for path, head in heads_of(model) if hasattr(head, 'ignore_index')}
    first: tuple[str, tuple] | None = None
    for split, dataset in loaders.items():
        for leaf in leaf_datasets(dataset):
            where = f'{split}_dataloader.dataset ({type(leaf).__name__})'
            classes = tuple(leaf.metainfo.get('classes') or ())
            if not classes:
                continue
            check_heads(model, classes, where)
            if first and first[1] != classes:
                raise ConfigError(
                    f'{where} has the classes {_listed(classes)}, but {first[0]} has {_listed(first[1])}: a model '
                    'must be trained and tested on the same classes in the same order'
                )
            first = first or (where, classes)
            _check_loader(leaf, split)
            ignored[f'{split}_dataloader.dataset'] = leaf.ignore_index
    for split, evaluator in evaluators.items():
        for metric in getattr(evaluator, 'metrics', ()):
            if hasattr(metric, 'ignore_index'):
                ignored[f'{split}_evaluator ({type(metric).__name__})'] = metric.ignore_index
    _check_ignored(ignored, first[1] if first else ())


def _check_loader(leaf: BaseDataset, split: str) -> None:
    names = label_classes(leaf)
    for pipeline in pipelines(leaf.pipeline):
        for index, transform in enumerate(pipeline.transforms):
            path = f'{split}_dataloader.dataset.pipeline.{index} ({type(transform).__name__})'
            count = getattr(transform, 'num_classes', None)
            if isinstance(count, int) and names and count != len(names):
                raise ConfigError(
                    f'{path} has num_classes={count}, but the label files of {type(leaf).__name__} have '
                    f'{counted(len(names), "class")} ({_listed(names)}): set num_classes={len(names)}'
                )
            reduce = getattr(transform, 'reduce_zero_label', None)
            if reduce is not None and hasattr(leaf, 'reduce_zero_label') and bool(reduce) != leaf.reduce_zero_label:
                raise ConfigError(
                    f'{path} has reduce_zero_label={reduce}, but its data set has reduce_zero_label='
                    f'{leaf.reduce_zero_label}: set it only in the data set, where loaders and metrics look it up'
                )


def _check_ignored(ignored: Mapping[str, int], classes: Sequence[str]) -> None:
    """Check that all parts ignore the same value, and that it is not a class."""
    for path, value in ignored.items():
        if isinstance(value, int) and 0 <= value < len(classes):
            raise ConfigError(
                f'{path} has ignore_index={value}, which is the class {classes[value]!r}: it would never be learned or '
                f'counted. Ignore a value that is not a class, such as 255; to leave a class out, name the others in '
                'metainfo=dict(classes=...) of the data sets'
            )
    different = {value: path for path, value in ignored.items()}
    if len(different) > 1:
        listed = ', '.join(f'{path} {value}' for value, path in different.items())
        raise ConfigError(f'ignore_index differs: {listed}. Set the same value everywhere')


def _listed(names: Sequence[str]) -> str:
    return ', '.join(map(str, names[:12])) + ', ...' * (len(names) > 12)
