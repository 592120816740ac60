"""The data sets inside wrappers (as configs and as built objects), and what their pipelines load."""

import inspect
import os.path as osp
from collections.abc import Iterator

from mmcv.transforms import LoadAnnotations, LoadImageFromFile
from mmengine.dataset import BaseDataset, Compose
from mmseg.datasets.transforms import LoadBiomedicalAnnotation, LoadDepthAnnotation

# The transforms that read labels.
LABEL_LOADERS = (LoadAnnotations, LoadBiomedicalAnnotation, LoadDepthAnnotation)


def leaf_configs(config: dict) -> Iterator[dict]:
    """The configs of the data sets inside those of wrappers such as ``ConcatDataset`` and ``RepeatDataset``."""
    if 'datasets' in config:
        for inner in config['datasets']:
            yield from leaf_configs(inner)
    elif 'dataset' in config:
        yield from leaf_configs(config['dataset'])
    else:
        yield config


def leaf_datasets(dataset: object) -> Iterator[BaseDataset]:
    """The data sets inside wrappers such as ``ConcatDataset`` and ``RepeatDataset``."""
    if hasattr(dataset, 'datasets'):
        for inner in dataset.datasets:
            yield from leaf_datasets(inner)
    elif hasattr(dataset, 'dataset'):
        yield from leaf_datasets(dataset.dataset)
    elif isinstance(dataset, BaseDataset):
        yield dataset


def image_root(dataset: object) -> str | None:
    """The folder that contains all images of a data set, or of all data sets in a wrapper; None if not known."""
    roots = [osp.abspath(leaf.data_prefix.get('img_path') or leaf.data_root or '.') for leaf in leaf_datasets(dataset)]
    return osp.commonpath(roots) if roots else None


def pipelines(pipeline: Compose) -> Iterator[Compose]:
    """A pipeline, and the pipelines inside its transforms, such as those of ``TestTimeAug``."""
    yield pipeline
    for transform in pipeline.transforms:
        for inner in getattr(transform, 'subroutines', ()):  # TestTimeAug
            yield from pipelines(inner)


def loads_labels(transform: object) -> bool:
    """Whether a transform, or a class of transforms, reads a label file."""
    kind = transform if inspect.isclass(transform) else type(transform)
    return issubclass(kind, LABEL_LOADERS)


def needs_labels(leaf: BaseDataset) -> bool:
    """Whether the pipeline of a data set loads labels; that of a test split without labels does not."""
    return any(loads_labels(transform) for pipeline in pipelines(leaf.pipeline) for transform in pipeline.transforms)


def loader_of(leaf: BaseDataset) -> tuple[str, str]:
    """mmcv's colour flag and decoding backend with which a data set loads images; mmcv's defaults if unknown."""
    for pipeline in pipelines(leaf.pipeline):
        for transform in pipeline.transforms:
            if isinstance(transform, LoadImageFromFile):
                return transform.color_type, transform.imdecode_backend
    return 'color', 'cv2'


def label_classes(leaf: BaseDataset) -> tuple[str, ...]:
    """Names of the classes in the label files of a data set, before ``metainfo`` selects some."""
    return tuple((type(leaf).METAINFO.get('classes') if leaf.label_map else leaf.metainfo.get('classes')) or ())
