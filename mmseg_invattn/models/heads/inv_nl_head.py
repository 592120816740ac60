"""Non-local head with an attention block that can be inverted."""
from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmseg.models.decode_heads import FCNHead
from mmseg.registry import MODELS
from torch import Tensor

from ...layers import InverseInfo


class AttentionInverse(NamedTuple):
    """An attention block run forward and back.

    Attributes:
        seen: what the attention saw, shape (B, C, H, W).
        recovered: what its inverse made of its output, same shape.
        info: the solver's report.
    """
    seen: Tensor
    recovered: Tensor
    info: InverseInfo


@MODELS.register_module()
class InvNLHead(FCNHead):
    """The twin of MMSegmentation's ``NLHead``: convolution, attention, convolution, concatenation, classifier.

    Args:
        attention: config of the attention block, without ``in_channels``; ``form='none'`` in it is the ordinary
            non-local block in the very same place.
        kwargs: arguments of ``FCNHead``, ``num_convs`` excepted.
    """

    def __init__(self, attention: dict | None = None, **kwargs):
        super().__init__(num_convs=2, **kwargs)
        self.attention = MODELS.build(dict(type='InvNonLocal2d', in_channels=self.channels) | dict(attention or {}))

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Multi-level features of the backbone -> logits (B, num_classes, H, W)."""
        x = self._transform_inputs(inputs)
        output = self.convs[1](self.attention(self.convs[0](x)))
        if self.concat_input:
            output = self.conv_cat(torch.cat([x, output], dim=1))
        return self.cls_seg(output)

    @torch.no_grad()
    def invert_attention(self, inputs: Sequence[Tensor], tol: float = 1e-6, max_iter: int = 100,
                         strict: bool = True) -> AttentionInverse:
        """Runs the features of the backbone through the attention and back.

        Args:
            inputs: multi-level features, as :meth:`forward` takes them.
            tol: see :meth:`~mmseg_invattn.layers.InvertibleModule.inverse`, as are ``max_iter`` and ``strict``.
        """
        seen = self.convs[0](self._transform_inputs(inputs))
        recovered, info = self.attention.inverse(self.attention(seen), tol, max_iter, strict)
        return AttentionInverse(seen, recovered, info)
