"""What every head with attention in it shares."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor

from ..attention import AttentionInverse, build_attention, forward_and_back


class AttentionHead(BaseDecodeHead):
    """Base, before a head of MMSegmentation: an attention of ``channels`` channels, and its inversion.

    Args:
        attention: config of the attention block, without ``in_channels``: ``dict(form='certified', mode=...)`` with
            the arguments of that form; ``form='none'`` is the ordinary non-local block in the very same place. A list
            of configs stands for these blocks in a row.
        num_blocks: the block so many times in a row, see :func:`~mmseg_invattn.models.attention.build_attention`; 0: no
            attention, the control.
        kwargs: arguments of the head.

    Attributes:
        attention: one block, or several in a row.

    Raises:
        ValueError: an argument breaks its rule.
    """

    def __init__(self, attention: Mapping | Sequence[Mapping] | None = None, num_blocks: int = 1, **kwargs: Any):
        super().__init__(**kwargs)
        self.attention = build_attention(self.channels, attention, num_blocks)

    @abstractmethod
    def attention_input(self, inputs: Sequence[Tensor]) -> Tensor:
        """Multi-level features of the backbone -> the features that the attention is put on, (B, channels, H, W)."""

    @torch.no_grad()
    def invert_attention(
        self, inputs: Sequence[Tensor], tol: float = 1e-6, max_iter: int = 100, strict: bool = True
    ) -> AttentionInverse:
        """Runs the features of the backbone through the attention and back.

        Args:
            inputs: multi-level features, as ``forward`` takes them.
            tol: see :meth:`~mmseg_invattn.layers.InvertibleModule.inverse`, as are ``max_iter`` and ``strict``.

        Raises:
            TypeError: the attention has no inverse.
            NotConvergedError: with ``strict``, when a sample does not meet ``tol`` within ``max_iter``.
        """
        return forward_and_back(self.attention, self.attention_input(inputs), tol, max_iter, strict)
