"""What MMSegmentation sees: registered heads, plugins and backbones, wiring only."""
from . import plugins  # noqa: F401  (imported for its registrations)
from .backbones import InvResNet, PlainConvNet, RevNet2d
from .heads import InvNLHead

__all__ = ['InvNLHead', 'InvResNet', 'PlainConvNet', 'RevNet2d']
