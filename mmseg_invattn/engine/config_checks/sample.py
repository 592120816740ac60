"""Loads the first sample of each data set, and runs it through the pipeline and the preprocessor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, repeat

import torch
from mmengine.dataset import BaseDataset, pseudo_collate
from mmengine.model import BaseDataPreprocessor

from ...datasets.leaves import leaf_datasets
from .building import what
from .model import random_state_kept
from .tree import ConfigError


def check_sample(
    dataset: object, split: str, config: Mapping, preprocessor: BaseDataPreprocessor | None
) -> tuple | None:
    """Load a sample of every data set as a worker will, without changing the random states.

    Args:
        dataset: A built data set or a wrapper of data sets.
        split: ``train``, ``val`` or ``test``.
        config: The whole config, for the paths.
        preprocessor: That of the model, through which training samples are passed.

    Returns:
        (H, W) of the images as the model sees them, if known.

    Raises:
        ConfigError: A transform or the preprocessor fails. Errors about files are raised as they are.
    """
    shape = None
    start = f'{split}_dataloader.dataset'
    paths = leaf_paths(config.get(f'{split}_dataloader', {}).get('dataset'), start)
    for leaf, path in zip(leaf_datasets(dataset), chain(paths, repeat(start)), strict=False):
        with random_state_kept():
            sample = _load(leaf, path)
            if split == 'train' and preprocessor is not None:
                shape = _preprocess(preprocessor, sample, path)
    return shape


def leaf_paths(config: object, path: str) -> Iterator[str]:
    """Paths of the data sets inside wrappers, in the order of ``leaf_datasets``."""
    if not isinstance(config, Mapping):
        return
    if 'datasets' in config:
        for index, inner in enumerate(config['datasets']):
            yield from leaf_paths(inner, f'{path}.datasets.{index}')
    elif 'dataset' in config:
        yield from leaf_paths(config['dataset'], f'{path}.dataset')
    else:
        yield path


def _load(leaf: BaseDataset, path: str) -> dict:
    results = leaf.get_data_info(0)
    for index, transform in enumerate(leaf.pipeline.transforms):
        place = f'{path}.pipeline.{index} ({type(transform).__name__})'
        before = ', '.join(map(str, results))
        try:
            results = transform(results)
        except (OSError, ValueError):  # they name a file
            raise
        except Exception as error:
            raise ConfigError(
                f'{place} fails on the first sample with {type(error).__name__}: {what(error)}. '
                f'Before it the sample has {before}'
            ) from error
        if results is None:
            return None
    if not isinstance(results, dict) or 'inputs' not in results:
        raise ConfigError(
            f'{path}.pipeline ends with {type(transform).__name__ if leaf.pipeline.transforms else "nothing"}, but '
            "the model needs the output of PackSegInputs: add dict(type='PackSegInputs') at the end of the pipeline"
        )
    return results


def _preprocess(preprocessor: BaseDataPreprocessor, sample: dict, path: str) -> tuple | None:
    if sample is None:
        return None
    try:
        batch = preprocessor(pseudo_collate([sample]), training=True)
    except Exception as error:
        raise ConfigError(
            f'model.data_preprocessor ({type(preprocessor).__name__}) fails on the first sample of {path} with '
            f'{type(error).__name__}: {what(error)}'
        ) from error
    inputs = batch.get('inputs') if isinstance(batch, dict) else None
    return tuple(inputs.shape[-2:]) if isinstance(inputs, torch.Tensor) and inputs.ndim == 4 else None
