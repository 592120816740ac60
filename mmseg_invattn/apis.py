"""Building a model for inference."""
from __future__ import annotations

from pathlib import Path

import mmseg.apis
import torch
from mmengine.config import Config
from torch import nn

from .compat import use_safe_checkpoint_loading


def init_model(config: str | Path | Config, checkpoint: str | None = None, device: str | None = None,
               trust_checkpoint: bool = False) -> nn.Module:
    """Build a segmentor from a config and load its weights, for ``mmseg.apis.inference_model``.

    ``mmseg.apis.init_model`` with safe checkpoint loading: nothing in the file is run.

    Args:
        config: Config file or config.
        checkpoint: Checkpoint file or URL; None leaves the weights as they are initialised.
        device: Where the model goes; None takes the GPU where there is one.
        trust_checkpoint: Load this checkpoint even where that runs code which it contains.

    Returns:
        The model in evaluation mode, with ``cfg`` and ``dataset_meta`` set.

    Raises:
        UnsafeCheckpointError: If the checkpoint holds more than tensors and plain values, and is not trusted.
    """
    device = device or ('cuda:0' if torch.cuda.is_available() else 'cpu')
    use_safe_checkpoint_loading(trust_checkpoint)
    try:
        return mmseg.apis.init_model(config, checkpoint, device=device)
    finally:
        use_safe_checkpoint_loading()
