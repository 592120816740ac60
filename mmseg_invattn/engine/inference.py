"""Builds a model for inference, and inputs for it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from logging import WARNING
from pathlib import Path

import mmseg.apis
import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmseg.models import SegDataPreProcessor
from mmseg.registry import DATASETS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from ..datasets.image_size import image_size
from ..datasets.leaves import leaf_configs
from ..wording import counted
from .checkpoints import read_checkpoint
from .config_checks import check_config, explained
from .config_checks.classes import check_heads
from .config_checks.model import check_model, image_channels
from .config_file import read_config
from .embedded_config import embedded_text, read_embedded
from .finite_outputs import watch_outputs
from .launch import check_checkpoint_file
from .matching import load_file
from .settings import warn_of_settings


def init_model(
    config: str | Path | Config,
    checkpoint: str | None = None,
    device: str | None = None,
    trust_checkpoint: bool = False,
) -> nn.Module:
    """Build a segmentor from a config and load its weights, for ``mmseg.apis.inference_model``.

    It does what ``mmseg.apis.init_model`` does, with safe checkpoint loading: no code in the file is run, and all of
    the weights must fit. Outputs that are not finite raise an error, and settings that differ from those of the
    training give a warning. Classes and palette come from the checkpoint, or else from the config's data set.

    Args:
        config: A config file, the name of one of the project's configs, or a config.
        checkpoint: Checkpoint file or URL; None leaves the weights as they are initialised.
        device: The device of the model; None takes the GPU if there is one.
        trust_checkpoint: Load this checkpoint even if that runs code in it.

    Returns:
        The model in evaluation mode, with ``cfg`` and ``dataset_meta`` set.

    Raises:
        FileNotFoundError: There is no such config or checkpoint; raised before anything is built.
        ConfigError: The config has a mistake, or its heads have another number of classes than the data.
        ValueError: The config cannot be read.
        UnsafeCheckpointError: If the checkpoint holds more than tensors and plain values, and is not trusted.
        DamagedCheckpointError: If it is damaged, or its weights are not finite.
        CheckpointMismatchError: If it belongs to another config; the message names the first weights that differ.
    """
    if checkpoint is not None:
        check_checkpoint_file(str(checkpoint))
    config = config if isinstance(config, Config) else read_config(config)
    device = device or ('cuda:0' if torch.cuda.is_available() else 'cpu')
    check_config(dict(model=config.get('model')))
    with explained(config):
        model = mmseg.apis.init_model(config, device=device)
    check_model(model)
    meta = None
    if checkpoint is not None:
        loaded = load_file(model, str(checkpoint), trust_checkpoint)
        meta = (loaded.get('meta') or {}).get('dataset_meta')
        warn_of_settings(model.cfg, loaded, str(checkpoint), partial(print_log, logger='current', level=WARNING))
    model.dataset_meta = meta or dataset_meta(model.cfg)
    check_heads(model, model.dataset_meta.get('classes') or (), 'the checkpoint' if meta else 'the data set')
    watch_outputs(model)
    return model


def config_of_checkpoint(checkpoint: str | Path, trust: bool = False) -> Config:
    """The config in a checkpoint, read as plain values: nothing in it is run or imported.

    Args:
        checkpoint: The file.
        trust: Load the checkpoint even if that runs code in it. Its config is not run in any case.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It contains no config.
        UnsafeConfigError: Its config is more than plain values.
    """
    text = embedded_text(read_checkpoint(checkpoint, 'cpu', trust, mmap=True, any_config=True))
    if text is None:
        raise ValueError(
            f'{checkpoint}: this checkpoint contains no config, because it was published or holds only weights: give '
            'the config file that it was trained with'
        )
    return Config(read_embedded(text, str(checkpoint)))


def dataset_meta(cfg: Config) -> dict:
    """``classes`` and ``palette``, if known, of the data set that the config tests, validates or trains on."""
    for split in ('test', 'val', 'train'):
        loader = cfg.get(f'{split}_dataloader') or {}
        for config in leaf_configs(loader['dataset']) if loader.get('dataset') else ():
            kind = config['type'] if isinstance(config['type'], type) else DATASETS.get(config['type'])
            meta = kind._load_metainfo(copy.deepcopy(config.get('metainfo')))
            if meta.get('classes'):
                same = len(meta.get('palette') or ()) == len(meta['classes'])
                return dict(classes=meta['classes'], palette=meta['palette'] if same else None)
    return {}


def preprocess(model: nn.Module, pixels: Tensor, samples: list | None = None) -> Tensor:
    """The pixels (C, H, W) of one image after the model's preprocessor, (1, C, H', W')."""
    # the preprocessor notes its padding in a sample
    data = dict(inputs=[pixels], data_samples=samples or [SegDataSample()])
    return model.data_preprocessor(data, training=False)['inputs']


def check_channels(model: nn.Module, inputs: Tensor, file: str | Path) -> None:
    """Refuse an image whose channels are not those of the model.

    Raises:
        ValueError: It has more or fewer channels. Models with a preprocessor of another class are not checked.
    """
    expected = image_channels(model)
    if type(model.data_preprocessor) is SegDataPreProcessor and inputs.shape[0] != expected:
        raise ValueError(
            f'{file}: the pipeline of the test data loads it with {counted(inputs.shape[0], "channel")}, but the model '
            f"takes {expected}: give an image like those it was trained on, or set the loader's color_type"
        )


def random_image(model: nn.Module, shape: Sequence[int] | None = None) -> Tensor:
    """Random pixels after the model's preprocessor, (1, C, H, W); the same at every call.

    Args:
        model: A model from :func:`init_model`.
        shape: (H, W); None takes the size that the config trains on, see
            :func:`~mmseg_invattn.datasets.image_size.image_size`.

    Raises:
        ValueError: No shape is given and the config has none.
    """
    shape = shape or image_size(model.cfg)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (image_channels(model), *shape), dtype=torch.uint8, generator=generator)
    return preprocess(model, pixels)
