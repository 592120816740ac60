"""Forms: how attention becomes a block. A form is one file here and one line in ``FORMS``.

A form is an ``nn.Module`` built as ``Form(spec)`` with an :class:`~mmseg_invattn.layers.spec.AttentionSpec`; it maps
feature maps (B, C, H, W) to the same shape. Invertible forms are :class:`~mmseg_invattn.layers.InvertibleModule`.
"""
from .certified import Certified
from .conditional import Conditional
from .coupling import Coupling
from .ordinary import Ordinary
from .paper import Paper

FORMS = {
    'certified': Certified,
    'conditional': Conditional,
    'coupling': Coupling,
    'paper': Paper,
    'none': Ordinary,
}

__all__ = ['FORMS', 'Certified', 'Conditional', 'Coupling', 'Ordinary', 'Paper']
