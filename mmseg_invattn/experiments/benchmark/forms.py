"""Cost of each form compared with ordinary attention of the same size, mode and kernel: training, inference, inverse.

Ordinary attention is form ``none``, which needs no N x N map either, so the ratio is the price of invertibility and of
the certificate. Inference and inverse run under ``constant_weights``, as in test and predict. An inverse is compared
with the forward pass of the same block.
"""

from collections.abc import Callable

import torch
from torch import nn

from mmseg_invattn.layers import FORMS, constant_weights

from .blocks import feature_map, training_step
from .memory import Side
from .report import Line, compared
from .session import Session
from .timing import Step, interleave, waiter

INVERTIBLE = ('certified', 'conditional', 'coupling')
# (channels, size of the map, batch), and how many calls are timed together, because calls at small sizes take only a
# millisecond
SIZES = (((16, (8, 16), 4), 20), ((64, (32, 32), 4), 2), ((256, (64, 128), 1), 1))
QUICK = SIZES[:1]


def build(form: str, channels: int, device: str) -> nn.Module:
    torch.manual_seed(0)
    return FORMS[form](channels).to(device)


def often(step: Step, times: int) -> Step:
    """Combines a number of calls into one."""

    def calls() -> None:
        for _ in range(times):
            step()

    return calls


def run(session: Session) -> None:
    for (channels, size, batch), times in QUICK if session.quick else SIZES:
        sizes = dict(B=batch, C=channels, N=size[0] * size[1])
        options = dict(channels=channels, size=size, batch=batch, device=session.device, times=times)
        sides = {form: Side(steps, dict(form=form, **options), dict(size=(4, 4))) for form in ('none', *INVERTIBLE)}
        for form in INVERTIBLE:
            session.compare(f'{form}, training step', 'ordinary attention', sizes, sides[form], sides['none'])
            compare_inference(session, form, channels, size, batch, times, sizes)


def steps(form: str, channels: int, size: tuple[int, int], batch: int, device: str, times: int) -> Step:
    """Training steps of a block."""
    x = feature_map(channels, size, device, batch)
    return often(training_step(build(form, channels, device), x, 'float32'), times)


def compare_inference(
    session: Session, form: str, channels: int, size: tuple[int, int], batch: int, times: int, sizes: dict
) -> None:
    block, ordinary = (build(name, channels, session.device) for name in (form, 'none'))
    x = feature_map(channels, size, session.device, batch).detach()
    block(x)
    for module in (block, ordinary):
        module.eval()

    def add(what: str, against: str, ours: Callable[[], object], peer: Callable[[], object]) -> None:
        seconds = interleave(often(ours, times), often(peer, times), session.rounds(7), waiter(session.device))
        session.add(Line(f'{form}, {what}', against, sizes, [compared('time', 's', *seconds)]))

    with torch.inference_mode(), constant_weights(block), constant_weights(ordinary):
        y = block(x)
        add('inference', 'ordinary attention', lambda: block(x), lambda: ordinary(x))
        add('inverse', 'its own forward pass', lambda: block.inverse(y, certify=False), lambda: block(x))
        add('inverse with its bound', 'its own forward pass', lambda: block.inverse(y), lambda: block(x))
