"""The base class of all heads with attention."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor

from ..attention import AttentionInverse, build_attention, forward_and_back


class AttentionHead(BaseDecodeHead):
    """Adds an attention with ``channels`` channels, and its inversion, to a head of MMSegmentation.

    It is the first base class; the head of MMSegmentation is the second.

    Args:
        attention: config of the attention block, without ``in_channels``: ``dict(form='certified', mode=...)`` with
            the arguments of that form; ``form='none'`` is the ordinary non-local block in the same place. A list of
            configs gives several successive blocks.
        num_blocks: number of successive blocks, see :func:`~mmseg_invattn.models.attention.build_attention`; 0 means no
            attention, as a control.
        kwargs: arguments of the head.

    Attributes:
        attention: one block, or a sequence of blocks.

    Raises:
        ValueError: an argument breaks its rule.
    """

    def __init__(self, attention: Mapping | Sequence[Mapping] | None = None, num_blocks: int = 1, **kwargs: Any):
        super().__init__(**kwargs)
        self.attention = build_attention(self.channels, attention, num_blocks)

    @abstractmethod
    def attention_input(self, inputs: Sequence[Tensor]) -> Tensor:
        """Multi-level features of the backbone -> the input of the attention, (B, channels, H, W)."""

    @torch.no_grad()
    def invert_attention(
        self, inputs: Sequence[Tensor], tol: float = 1e-6, max_iter: int = 100, strict: bool = True
    ) -> AttentionInverse:
        """Runs the features of the backbone through the attention and back.

        Args:
            inputs: multi-level features, as for ``forward``.
            tol: see :meth:`~mmseg_invattn.layers.InvertibleModule.inverse`.
            max_iter: see :meth:`~mmseg_invattn.layers.InvertibleModule.inverse`.
            strict: see :meth:`~mmseg_invattn.layers.InvertibleModule.inverse`.

        Raises:
            TypeError: the attention has no inverse.
            NotConvergedError: with ``strict``, if a sample does not meet ``tol`` within ``max_iter``.
        """
        return forward_and_back(self.attention, self.attention_input(inputs), tol, max_iter, strict)
