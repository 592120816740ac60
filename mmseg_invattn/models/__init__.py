"""Heads, plugins and backbones that are registered in MMSegmentation; thin wrappers around the layers."""

from . import plugins  # noqa: F401  (imported for its registrations)
from .attention import AttentionInverse
from .backbones import (
    CifarResNet,
    EfficientNetLite,
    InvAttentionResNet,
    InvResNet,
    InvUNet,
    PlainConvNet,
    RevNet2d,
    SelfAttentionNet,
)
from .classifiers import ImageClassifier
from .flows import InvReconstruction, InvResNetFlow
from .heads import InvASPPHead, InvDAHead, InvDepthwiseSeparableASPPHead, InvFCNHead, InvNLHead, InvPSPHead, InvSkipHead
from .mean_tta_model import MeanTTAModel

__all__ = [
    'AttentionInverse',
    'CifarResNet',
    'EfficientNetLite',
    'ImageClassifier',
    'InvASPPHead',
    'InvAttentionResNet',
    'InvDAHead',
    'InvDepthwiseSeparableASPPHead',
    'InvFCNHead',
    'InvNLHead',
    'InvPSPHead',
    'InvReconstruction',
    'InvResNet',
    'InvResNetFlow',
    'InvSkipHead',
    'InvUNet',
    'MeanTTAModel',
    'PlainConvNet',
    'RevNet2d',
    'SelfAttentionNet',
]
