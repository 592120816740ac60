"""Attention blocks.

A *mode* is the way in which pixels score each other (one file in ``modes``). A *form* is the way in which a branch
becomes a block (one file here and one line in ``FORMS``).
"""

from torch import nn

from ... import choices
from ..contract import InvertibleModule
from .certified import CertifiedAttention2d
from .channel import InvChannelAttention
from .conditional import ConditionalAttention2d
from .coupling import CouplingAttention2d
from .non_local import NonLocalAttention2d
from .paper import PaperAttention2d
from .paper_weights import convert_paper_weights

FORMS: dict[str, type[nn.Module]] = {
    'certified': CertifiedAttention2d,
    'conditional': ConditionalAttention2d,
    'coupling': CouplingAttention2d,
    'paper': PaperAttention2d,
    'none': NonLocalAttention2d,
}
assert tuple(FORMS) == choices.FORMS
assert choices.INVERTIBLE_FORMS == tuple(form for form, kind in FORMS.items() if issubclass(kind, InvertibleModule))

__all__ = [
    'FORMS',
    'CertifiedAttention2d',
    'ConditionalAttention2d',
    'CouplingAttention2d',
    'InvChannelAttention',
    'NonLocalAttention2d',
    'PaperAttention2d',
    'convert_paper_weights',
]
