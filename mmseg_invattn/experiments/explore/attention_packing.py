"""Compresses queries and keys to the channels that their scores need, to 16 or 8 bits, and if needed to a coarser grid.

Shape suffixes: H heads, N queries, M keys, D query and key size, R the reduced size.
"""

import base64
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ...layers.attention.position import LearnedPosition, QuadraticPosition
from ...ops.attention import pool_tokens
from .attention_view import AttentionView, cells

# Largest error of a score that may be shown: relative to its size if weights are linear in it, otherwise in nats.
LIMIT = 0.05
ROWS = 1024  # number of queries whose scores are compared at a time


@dataclass(frozen=True)
class PackedView:
    """A view in the form of the page.

    Attributes:
        exact: the view.
        view: the view with rounded numbers, float32.
        arrays: integers of queries and keys, and their steps (H, R); for the score ``'sum'`` numbers in float32.
    """

    exact: AttentionView
    view: AttentionView
    arrays: dict[str, Tensor]

    @cached_property
    def error(self) -> float:
        """Largest difference of a score to the exact one."""
        return 0.0 if self.view.score == 'sum' else largest_difference(self.exact, self.view)

    @property
    def limit(self) -> float:
        """Largest difference of a score that may be shown."""
        return score_limit(self.exact)

    def to_json(self) -> dict:
        """The data for the page; arrays in base64, little-endian, with their type."""
        view = self.view
        arrays = dict(self.arrays)
        if view.key_bias_HM is not None:
            arrays['keyBias'] = view.key_bias_HM
        if view.key_count_M is not None:
            arrays['keyCount'] = view.key_count_M
        position = None if view.position is None else POSITIONS[type(view.position)](view.position)
        return dict(
            title=view.title,
            size=view.size,
            heads=view.heads,
            channels=view.query_HND.shape[-1],
            score=view.score,
            kernel=view.kernel,
            factor=view.factor,
            sharpness=view.sharpness_H,
            saturation=view.saturation,
            neighbourhood=view.neighbourhood,
            window=view.window,
            queryCells=view.query_cells._asdict(),
            keyCells=[grid._asdict() for grid in view.key_cells],
            position=position,
            arrays={name: encode(array) for name, array in arrays.items()},
        )


# Position logits in the form of the page.
POSITIONS = {
    LearnedPosition: lambda p: dict(kind='learned', row=p.row.tolist(), column=p.column.tolist()),
    QuadraticPosition: lambda p: dict(kind='quadratic', centre=p.centre.tolist(), alpha=p.log_alpha.exp().tolist()),
}


def encode(array: Tensor) -> dict:
    """Numbers in base64, with the name of their type in JavaScript."""
    kind = {torch.int8: 'Int8', torch.int16: 'Int16', torch.float32: 'Float32'}[array.dtype]
    data = array.cpu().contiguous().numpy()
    return dict(type=kind, data=base64.b64encode(data.astype(data.dtype.newbyteorder('<')).tobytes()).decode())


def coarser(view: AttentionView, factor: int) -> AttentionView:
    """The same attention seen through blocks of ``factor x factor`` pixels: means of queries and keys.

    Keys that are already pooled are not changed. The weight of a block is multiplied by its number of pixels.
    """
    if factor == 1:
        return view
    grid = cells(view.size, factor)
    query_HND = pool_tokens(view.query_HND[None], view.size, factor)[0]
    view = replace(view, query_HND=query_HND, query_cells=grid[0])
    if view.key_cells != cells(view.size):
        return view
    bias_HM = view.key_bias_HM
    if bias_HM is not None:
        bias_HM = pool_tokens(bias_HM[None, ..., None], view.size, factor)[0, ..., 0]
    return replace(
        view,
        key_HMD=pool_tokens(view.key_HMD[None], view.size, factor)[0],
        key_cells=grid,
        key_bias_HM=bias_HM,
        key_count_M=grid[0].areas(),
    )


@torch.no_grad()
def pack(view: AttentionView, bits: int = 16) -> PackedView:
    """Rounds queries and keys to 8 or 16 bits, after reducing their channels to the rank of their scores."""
    view = replace(
        view,
        query_HND=view.query_HND.float().cpu(),
        key_HMD=view.key_HMD.float().cpu(),
        key_bias_HM=None if view.key_bias_HM is None else view.key_bias_HM.float().cpu(),
        position=deepcopy(view.position).float().cpu() if view.position is not None else None,
    )
    if view.score == 'sum':  # queries and keys are one number each
        return PackedView(view, view, dict(query=view.query_HND, key=view.key_HMD))
    if view.kernel == 'softmax':  # a number that all keys share has no effect, but would use up range
        view = replace(view, key_HMD=view.key_HMD - view.key_HMD.mean(1, keepdim=True))
    query_HNR, key_HMR = low_rank(view.query_HND, view.key_HMD, score_limit(view) / 4)
    arrays, rounded = {}, {}
    for name, x_HNR in (('query', query_HNR), ('key', key_HMR)):
        top = 2 ** (bits - 1) - 1
        step_HR = x_HNR.abs().amax(1).clamp(min=1e-30) / top
        whole = (x_HNR / step_HR[:, None]).round().clamp(-top, top).to(torch.int8 if bits == 8 else torch.int16)
        arrays |= {name: whole, f'{name}Step': step_HR}
        rounded[name] = whole.float() * step_HR[:, None]
    packed = replace(view, query_HND=rounded['query'], key_HMD=rounded['key'])
    return PackedView(view, packed, arrays)


def low_rank(query_HND: Tensor, key_HMD: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """Queries and keys with the fewest channels that give all inner products up to the tolerance.

    ``Q K^T = U_q (R_q R_k^T) U_k^T = (U_q U sqrt(s)) (U_k V sqrt(s))^T`` is cut at the first channel from which on the
    norm of the rest of the queries times that of the keys is at most the tolerance. That product bounds the difference.
    """
    basis_q, r_q = torch.linalg.qr(query_HND.double())
    basis_k, r_k = torch.linalg.qr(key_HMD.double())
    u, s, vh = torch.linalg.svd(r_q @ r_k.mT, full_matrices=False)
    q_HNR, k_HMR = basis_q @ u * s.sqrt()[:, None], basis_k @ vh.mT * s.sqrt()[:, None]
    # Bound of the contribution of channels r, r + 1, ...: the largest norm of queries times that of keys, (H, R).
    rest_q, rest_k = (x.square().flip(-1).cumsum(-1).flip(-1).amax(1).sqrt() for x in (q_HNR, k_HMR))
    rank = int((rest_q * rest_k > tolerance).sum(-1).max()) if s.numel() else 0
    return q_HNR[..., :rank].float(), k_HMR[..., :rank].float()


def score_limit(view: AttentionView) -> float:
    if view.score == 'sum' or view.kernel in ('softmax', 'elu1'):
        return LIMIT
    return LIMIT * max(float(s.abs().max()) for s in _score_blocks(view))


def largest_difference(a: AttentionView, b: AttentionView) -> float:
    return max(float((s - t).abs().max()) for s, t in zip(_score_blocks(a), _score_blocks(b), strict=True))


def _score_blocks(view: AttentionView) -> Iterator[Tensor]:
    """``q_i . k_j``, head by head, for some of the queries at a time."""
    for query_ND, key_MD in zip(view.query_HND, view.key_HMD, strict=True):
        for part in query_ND.split(ROWS):
            yield part @ key_MD.mT
