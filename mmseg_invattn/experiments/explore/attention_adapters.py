"""Finds the attention blocks of a model, and converts each to an :class:`AttentionView`.

Each kind of attention has one function here and one line in ``ADAPTERS``. The exact type of the module decides, because
a subclass may compute other scores.

Shape suffixes: B batch (1), H heads, N queries, M keys, C channels of a token, D query and key size.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from mmcv.cnn import NonLocal2d
from mmseg.models.decode_heads.da_head import CAM, PAM
from torch import Tensor, nn

from ...layers import (
    CertifiedAttention2d,
    ConditionalAttention2d,
    InvChannelAttention,
    InvRelativeAttention2d,
    NonLocalAttention2d,
    PaperAttention2d,
    RelativeSelfAttention2d,
)
from ...layers.attention.attention import Attention
from ...layers.attention.options import AttentionOptions
from ...layers.attention.ordinary_branch import OrdinaryBranch
from ...layers.attention.paper import FACTOR
from ...layers.attention.sharpness import Sharpness
from ...models.recorded_inputs import recorded_inputs
from ...ops.attention import l2_attention, pool_tokens, softmax_attention
from ...ops.attention.concatenation import (
    concatenation_attention,
    elu_concatenation_attention,
    mean_concatenation_attention,
)
from ...ops.attention.dot_product import dot_product_attention, elu_dot_product_attention, mean_dot_product_attention
from .attention_view import AttentionView, Cells, cells
from .relative_attention_view import relative_attention_view

# (score, kernel) of a view, for each attention function of a block.
FORMULAS = {
    softmax_attention: ('product', 'softmax'),
    l2_attention: ('product', 'softmax'),  # -|q - k|^2 = 2 q . k - |k|^2 + a number of the query
    dot_product_attention: ('product', 'elu1'),
    mean_dot_product_attention: ('product', 'mean'),
    elu_dot_product_attention: ('product', 'elu'),
    concatenation_attention: ('sum', 'elu1'),
    mean_concatenation_attention: ('sum', 'relu'),
    elu_concatenation_attention: ('sum', 'elu'),
}
MMCV = dict(dot_product=('product', 'mean'), concatenation=('sum', 'relu'))  # by mode; softmax of a product elsewhere
FORM_TITLES = {
    CertifiedAttention2d: 'certified',
    ConditionalAttention2d: 'conditional',
    PaperAttention2d: 'paper',
    NonLocalAttention2d: 'ordinary',
    OrdinaryBranch: 'half of a coupling',
}


def attention_blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Names and modules of the attention over pixels that can be shown, in the order of the model."""
    blocks = []
    for name, module in model.named_modules():
        inside = blocks and (not blocks[-1][0] or name.startswith(f'{blocks[-1][0]}.'))
        if type(module) in ADAPTERS and not inside:  # the branch inside an ordinary block is shown as that block
            blocks.append((name, module))
    return blocks


def channel_attention_blocks(model: nn.Module) -> list[str]:
    """Names of the blocks with attention over channels, which weighs feature maps and does not look at pixels."""
    return [name for name, module in model.named_modules() if type(module) in (CAM, InvChannelAttention)]


@torch.no_grad()
def attention_scores(module: nn.Module, x: Tensor) -> AttentionView:
    """The attention of a block at one input.

    Args:
        module: one of :func:`attention_blocks`, in evaluation mode.
        x: its input for one image, (1, C, H, W).
    """
    return ADAPTERS[type(module)](module, x)


@torch.no_grad()
def attention_views(model: nn.Module, run: Callable[[], object]) -> list[tuple[str, AttentionView]]:
    """The attention of every block of a model, with the name of the module, in the order in which the blocks run.

    Args:
        model: the model in evaluation mode.
        run: function that calls the model on one image, such as ``lambda: model(image, mode='tensor')``.

    Raises:
        ValueError: the model ran no block whose attention can be shown.
    """
    seen = recorded_inputs(attention_blocks(model), run)
    if not seen:
        known = ', '.join(sorted(kind.__name__ for kind in ADAPTERS))
        raise ValueError(
            f'{type(model).__name__} runs no attention block that can be shown, which are modules of '
            f'the types {known}: give a config with InvNLHead, NLHead or DAHead in it'
        )
    return [(name.removesuffix('.block'), attention_scores(module, x)) for name, module, x in seen]


def _form(form: nn.Module, x: Tensor) -> AttentionView:
    """Any form of this project, because all of them use :class:`Attention`."""
    attention: Attention = (form.branch if isinstance(form, NonLocalAttention2d) else form).attention
    mode, options = attention.mode, attention.options
    with _recorded(attention) as calls:
        form(x)
    scores, tokens_BHNC, size, kernel = calls[-1]
    q_BHND, k_BHMD = mode.project(scores, tokens_BHNC, pool_tokens(tokens_BHNC, size, options.key_pooling))
    q_HND, k_HMD = q_BHND[0], k_BHMD[0].expand(q_BHND.shape[1], -1, -1)
    bias_HM = None
    if kernel is l2_attention:
        centre = k_HMD.mean(1, keepdim=True)  # distances do not depend on it
        q_HND, k_HMD = 2 * (q_HND - centre), k_HMD - centre
        bias_HM = -k_HMD.square().sum(-1)
    score, rule = FORMULAS[kernel]
    return AttentionView(
        _title(form, options),
        size,
        q_HND,
        k_HMD,
        score,
        rule,
        *cells(size),
        cells(size, options.key_pooling),
        key_bias_HM=bias_HM,
        position=attention.position,
        neighbourhood=options.neighbourhood,
        window=(options.window_size, options.window_shift),
        factor=1 / FACTOR if isinstance(form, PaperAttention2d) else 1.0,
        sharpness_H=_sharpness(form, size[0] * size[1], x),
        saturation=float(form.saturation(x)) if hasattr(form, 'saturation') else None,
    )


def _sharpness(form: nn.Module, n_pixels: int, x: Tensor) -> tuple[float, ...] | None:
    sharpness: Sharpness | None = getattr(form, 'sharpness', None)
    return None if sharpness is None else tuple(sharpness.at(sharpness(), n_pixels, x).tolist())


@contextmanager
def _recorded(attention: Attention) -> Iterator[list[tuple]]:
    """The arguments of every call of ``attention.mixer`` inside: (scores, tokens, size, kernel)."""
    calls, mixer = [], attention.mixer

    def recording(
        scores: tuple, tokens_BGNC: Tensor, size: tuple[int, int], beta: object = None, kernel: Callable | None = None
    ):
        calls.append((scores, tokens_BGNC, size, kernel or attention.mode.attend))
        return mixer(scores, tokens_BGNC, size, beta, kernel)

    attention.mixer = recording
    try:
        yield calls
    finally:
        del attention.mixer


def _title(form: nn.Module, options: AttentionOptions) -> str:
    parts = [FORM_TITLES[type(form)], options.mode]
    parts += [f'position {options.position}'] * (options.position is not None)
    parts += [f'keys pooled {options.key_pooling}'] * (options.key_pooling is not None)
    parts += [options.neighbourhood.replace('_', '-')] * (options.neighbourhood != 'full')
    return ', '.join(parts)


def _non_local(block: NonLocal2d, x: Tensor) -> AttentionView:
    """mmcv's ``NonLocal2d``: one head, the dot product and the concatenation divided by the number of keys."""
    size = tuple(x.shape[2:])
    key_cells = cells(size)
    if block.sub_sample:  # maxima over blocks of 2 x 2 pixels; a last odd row or column is left out
        key_cells = (Cells(*(tuple((i, i + 2) for i in range(0, n - 1, 2)) for n in size)),)
    score, kernel = MMCV.get(block.mode, ('product', 'softmax'))
    q_1DHW = x if block.mode == 'gaussian' else block.theta(x)
    k_1DHW = block.phi(x) if block.mode != 'gaussian' or block.sub_sample else x
    q_1ND, k_1MD = q_1DHW.flatten(2).mT, k_1DHW.flatten(2).mT
    if block.mode == 'embedded_gaussian' and block.use_scale:
        q_1ND = q_1ND / q_1ND.shape[-1] ** 0.5
    if block.mode == 'concatenation':
        of_query, of_key = block.concat_project.conv.weight[:, :, 0, 0].chunk(2, 1)
        q_1ND, k_1MD = q_1ND @ of_query.mT, k_1MD @ of_key.mT
    return AttentionView(f'mmcv NonLocal2d, {block.mode}', size, q_1ND, k_1MD, score, kernel, *cells(size), key_cells)


def _danet(block: PAM, x: Tensor) -> AttentionView:
    """The position attention of MMSegmentation's ``DAHead``: a softmax without scale."""
    q_1ND, k_1MD = (project(x).flatten(2).mT for project in (block.query_project, block.key_project))
    size = tuple(x.shape[2:])
    return AttentionView(
        'DANet position attention', size, q_1ND, k_1MD, 'product', 'softmax', *cells(size), cells(size)
    )


ADAPTERS: dict[type[nn.Module], Callable[[nn.Module, Tensor], AttentionView]] = {
    **dict.fromkeys(FORM_TITLES, _form),
    NonLocal2d: _non_local,
    PAM: _danet,
    RelativeSelfAttention2d: relative_attention_view,
    InvRelativeAttention2d: relative_attention_view,
}
