"""Self-attention with relative position encodings: as a layer, as a convolution, and as an invertible block."""

from .conversion import shift_error
from .invertible import InvRelativeAttention2d
from .self_attention import RelativeSelfAttention2d

__all__ = ['InvRelativeAttention2d', 'RelativeSelfAttention2d', 'shift_error']
