"""What MMSegmentation sees: registered heads, plugins and backbones, wiring only."""
from . import plugins  # noqa: F401  (imported for its registrations)
from .backbones import PlainConvNet
from .heads import InvNLHead

__all__ = ['InvNLHead', 'PlainConvNet']
