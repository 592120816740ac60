"""The attention of a reconstruction or of a flow, chosen by form and mode: their configs stand for all of them."""

from __future__ import annotations

from mmengine.config import Config

from ..choices import INVERTIBLE_FORMS
from ..compat import type_name

FLOW_STAGES = (0,)  # of the paper's flow: behind the residual blocks of the first scale
PAPER_REDUCTION = 4  # of the channels, in the form that is kept for parity with the paper


def choose_attention(cfg: Config, form: str | None = None, mode: str | None = None) -> None:
    """Put the attention of this form and mode into a config, in place.

    What is None stays as the config has it, or is ``'embedded_gaussian'`` where a flow had no attention yet. A flow
    takes ``form='none'``, which is no attention. With the form ``'paper'`` a flow stores its activations: without a
    certificate they cannot be recovered for sure.

    Args:
        cfg: with a model ``InvReconstruction`` or ``InvResNetFlow``.
        form: of :data:`~mmseg_invattn.layers.FORMS`.
        mode: of :data:`~mmseg_invattn.layers.attention.modes.MODES`.

    Raises:
        ValueError: another model; a mode without attention; a reconstruction without attention.
    """
    kind = type_name(cfg.model)
    if kind not in ('InvReconstruction', 'InvResNetFlow'):
        raise ValueError(
            '--form and --mode choose the attention of a reconstruction or a flow (configs/reconstruction, '
            f'configs/flow), and this config has the model {kind}: change what it has, for example '
            '--cfg-options model.decode_head.attention.form=coupling'
        )
    place = cfg.model if kind == 'InvReconstruction' else cfg.model.backbone
    before = place.get('attention') or {}
    form = form or before.get('form', 'none')
    if form == 'none':
        if mode:
            raise ValueError(
                f'--mode {mode} is the mode of an attention, and this flow has none: add --form FORM, one of '
                f'{", ".join(INVERTIBLE_FORMS)}, or leave out --mode'
            )
        if kind == 'InvReconstruction':
            raise ValueError('--form none has no inverse to reconstruct with: choose another form')
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
    """``'FORM_MODE'`` of the config's attention, for the names of folders; ``'none'`` without attention."""
    place = cfg.model if type_name(cfg.model) == 'InvReconstruction' else cfg.model.backbone
    attention = place.get('attention')
    return f'{attention.form}_{attention.mode}' if attention else 'none'
