"""Invertible layers as plain ``nn.Module``: no import of mmcv, mmengine or mmseg."""
from .base import InverseInfo, InvertibleModule, NotConvergedError
from .inv_nonlocal import InvNonLocal2d

__all__ = ['InvNonLocal2d', 'InverseInfo', 'InvertibleModule', 'NotConvergedError']
