"""Forms: how attention becomes a block. A form is one file here and one line in ``FORMS``.

A form is an ``nn.Module`` built as ``Form(mode, channels, reduction, num_heads, contraction, sharpness)``, with
``mode`` a class of :mod:`~mmseg_invattn.layers.modes`; it maps feature maps (B, C, H, W) to the same shape. Invertible
forms are :class:`~mmseg_invattn.layers.InvertibleModule`.
"""
from .certified import Certified
from .ordinary import Ordinary

FORMS = {'certified': Certified, 'none': Ordinary}

__all__ = ['FORMS', 'Certified', 'Ordinary']
