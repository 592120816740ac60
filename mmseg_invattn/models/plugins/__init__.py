"""Layers that configs name in ``dict(type=...)``."""
from mmseg.registry import MODELS

from ...layers import InvNonLocal2d

MODELS.register_module(module=InvNonLocal2d)
