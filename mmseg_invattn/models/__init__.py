"""What MMSegmentation sees: registered heads, plugins and backbones, wiring only."""
from . import plugins  # noqa: F401  (imported for its registrations)
from .attention_slot import AttentionInverse
from .backbones import CifarResNet, InvAttentionResNet, InvResNet, PlainConvNet, RevNet2d, SelfAttentionNet
from .classifiers import ImageClassifier
from .heads import InvASPPHead, InvDAHead, InvDepthwiseSeparableASPPHead, InvFCNHead, InvNLHead, InvPSPHead

__all__ = [
    'AttentionInverse', 'CifarResNet', 'ImageClassifier', 'InvASPPHead', 'InvAttentionResNet', 'InvDAHead',
    'InvDepthwiseSeparableASPPHead', 'InvFCNHead', 'InvNLHead', 'InvPSPHead', 'InvResNet', 'PlainConvNet', 'RevNet2d',
    'SelfAttentionNet'
]
