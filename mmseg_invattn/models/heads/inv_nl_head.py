"""Non-local head with an attention block that can be inverted."""
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmseg.models.decode_heads import FCNHead
from mmseg.registry import MODELS
from torch import Tensor, nn

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
    """The twin of MMSegmentation's ``NLHead``: convolution, attention, convolution, classifier.

    The attention sees the features x as ``d x``, with a learned gain d for each channel, and its output is divided by
    d: half of the channels start loud (``d = spread``), half quiet (``1 / spread``). A contraction moves no feature by
    more than a share of the largest token. Against loud channels that share is faint, in quiet ones it is plain to see;
    with ``spread=1`` the branch is a faint addition everywhere, and takes many times as long to learn. Certificate and
    error bounds are those of the block, for the features that it sees.

    Args:
        attention: config of the attention block, without ``in_channels``; ``form='none'`` in it is the ordinary
            non-local block in the very same place.
        spread: start of the gains, at least 1; with 1 there are none.
        kwargs: arguments of ``FCNHead``, ``num_convs`` excepted.
    """

    def __init__(self, attention: dict | None = None, spread: float = 1.0, **kwargs):
        super().__init__(num_convs=2, **kwargs)
        if not 1 <= spread < math.inf:
            raise ValueError(f'spread={spread} is not a number from 1: loud channels are multiplied by it and quiet '
                             'ones divided; the certified form learns well with 20, 1 switches it off')
        self.attention = MODELS.build(dict(type='InvNonLocal2d', in_channels=self.channels) | dict(attention or {}))
        self.log_gain = None
        if spread > 1:
            loud = torch.arange(self.channels) % 2 == 0
            self.log_gain = nn.Parameter(torch.where(loud, 1.0, -1.0) * math.log(spread))

    def _gain(self) -> Tensor | float:
        """d, shape (C, 1, 1)."""
        return 1.0 if self.log_gain is None else self.log_gain.exp()[:, None, None]

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Multi-level features of the backbone -> logits (B, num_classes, H, W)."""
        x, gain = self._transform_inputs(inputs), self._gain()
        output = self.convs[1](self.attention(self.convs[0](x) * gain) / gain)
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
        seen = self.convs[0](self._transform_inputs(inputs)) * self._gain()
        recovered, info = self.attention.inverse(self.attention(seen), tol, max_iter, strict)
        return AttentionInverse(seen, recovered, info)
