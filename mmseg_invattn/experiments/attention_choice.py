"""Chooses the attention of a reconstruction or a flow by form and mode, so that one config serves all of them."""

from __future__ import annotations

from mmengine.config import Config

from ..choices import INVERTIBLE_FORMS
from ..compat import type_name

FLOW_STAGES = (0,)  # as in the flow of the paper: after the residual blocks of the first scale
PAPER_REDUCTION = 4  # reduction of the channels in form 'paper'


def choose_attention(cfg: Config, form: str | None = None, mode: str | None = None) -> None:
    """Puts attention of this form and mode into a config, in place.

    None keeps the value of the config; if a flow has no attention yet, the default mode is ``'embedded_gaussian'``. For
    a flow ``form='none'`` means no attention. With form ``'paper'`` a flow stores its activations, because without a
    certificate it is not certain that they can be recovered.

    Args:
        cfg: config with a model ``InvReconstruction`` or ``InvResNetFlow``.
        form: one of :data:`~mmseg_invattn.layers.FORMS`.
        mode: one of :data:`~mmseg_invattn.layers.attention.modes.MODES`.

    Raises:
        ValueError: another model; a mode without attention; a reconstruction without attention.
    """
    kind = type_name(cfg.model)
    if kind not in ('InvReconstruction', 'InvResNetFlow'):
        raise ValueError(
            '--form and --mode choose the attention of a reconstruction or a flow (configs/reconstruction, '
            f'configs/flow), but this config has the model {kind}: change its attention with, for example, '
            '--cfg-options model.decode_head.attention.form=coupling'
        )
    place = cfg.model if kind == 'InvReconstruction' else cfg.model.backbone
    before = place.get('attention') or {}
    form = form or before.get('form', 'none')
    if form == 'none':
        if mode:
            raise ValueError(
                f'--mode {mode} is the mode of an attention, but this flow has none: add --form FORM, one of '
                f'{", ".join(INVERTIBLE_FORMS)}, or leave out --mode'
            )
        if kind == 'InvReconstruction':
            raise ValueError('--form none has no inverse, so it cannot reconstruct: choose another form')
        place.pop('attention', None)
        place.pop('attention_stages', None)
        return
    mode = mode or before.get('mode', 'embedded_gaussian')
    if form == before.get('form'):
        place.attention.mode = mode  # its other arguments stay
    else:
        place.attention = dict(form=form, mode=mode, **(dict(reduction=PAPER_REDUCTION) if form == 'paper' else {}))
    if kind == 'InvResNetFlow':
        place.attention_stages = FLOW_STAGES
        place.memory_free = place.get('memory_free', True) and form != 'paper'


def attention_name(cfg: Config) -> str:
    """``'FORM_MODE'`` of the attention of a config, for the names of folders; ``'none'`` without attention."""
    place = cfg.model if type_name(cfg.model) == 'InvReconstruction' else cfg.model.backbone
    attention = place.get('attention')
    return f'{attention.form}_{attention.mode}' if attention else 'none'
