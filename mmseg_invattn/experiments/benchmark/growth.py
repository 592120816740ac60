"""Growth of time and memory with the number of pixels."""

from itertools import pairwise

from .memory import GIB, Side, available
from .report import Line
from .session import Session

PATIENCE = 1200  # seconds; a step that might take longer is not run


def grow(
    session: Session,
    what: str,
    side: Side,
    key: str,
    values: list,
    pixels: list[int],
    *,
    sizes: dict,
    time_limit: float | None = None,
    memory_limit: float | None = None,
    rounds: int = 3,
) -> None:
    """Adds one line for every step from one value of the option ``key`` to the next.

    If a workload with quadratic growth would not fit or would take too long, the step is skipped and its line says so.
    """
    for (small, large), (few, many) in zip(pairwise(values), pairwise(pixels), strict=True):
        shown = sizes | dict(N=f'{few} to {many}')
        usage = session.usage(side.with_options(**{key: small}))
        need, time = (of * (many / few) ** 2 for of in (usage.memory, usage.seconds))
        if need > 0.8 * available(session.device) or time > PATIENCE:
            session.add(
                Line(
                    f'{what}, growth',
                    'itself',
                    shown,
                    note=f'not run: quadratic growth would need {need / GIB:.0f} GiB and {time:.0f} s',
                )
            )
            return
        session.compare(
            f'{what}, growth',
            'itself',
            shown,
            side.with_options(**{key: large}),
            side.with_options(**{key: small}),
            time_limit=time_limit,
            memory_limit=memory_limit,
            rounds=rounds,
        )
