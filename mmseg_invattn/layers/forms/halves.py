"""The rule of the forms that treat one half of the channels by the other."""
from dataclasses import replace

from ..spec import AttentionSpec


def check_halves(spec: AttentionSpec) -> None:
    """Refuses channels that do not split into halves made of whole groups."""
    parts = 2 * spec.num_heads
    if spec.channels % parts:
        raise ValueError(f'in_channels={spec.channels} is not a multiple of 2 * num_heads = {parts}: this form splits '
                         'the channels into halves and each half into heads; choose channels or heads that divide')


def half_of(spec: AttentionSpec) -> AttentionSpec:
    """The same block on half of the channels; a reduction that no longer divides them leaves 1 channel a head."""
    half = spec.channels // 2
    reduction = min(spec.reduction, half // spec.num_heads)
    while half % (spec.num_heads * reduction):
        reduction -= 1
    return replace(spec, channels=half, reduction=reduction)
