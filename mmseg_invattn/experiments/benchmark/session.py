"""One run of the benchmark: where, how often, how large, and the comparison of two sides."""

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .memory import Side, Usage, measure, tried
from .report import Line, Quantity, compared
from .timing import alone, interleave, waiter


@dataclass(frozen=True)
class Session:
    """Settings of the command line.

    Attributes:
        add: takes a finished line.
        repeats: rounds of every comparison; None leaves it to the comparison.
        quick: sizes that show that everything runs, and nothing more.
        configs: of the models, and what of them ``cfg_options`` change.
    """

    add: Callable[[Line], Line]
    device: str = 'cpu'
    dtypes: tuple[str, ...] = ('float32',)
    repeats: int | None = None
    quick: bool = False
    configs: tuple[str, ...] = ()
    cfg_options: Mapping | None = None
    crop: tuple[int, int] | None = None
    batch: int = 2

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith('cuda')

    def rounds(self, usual: int) -> int:
        return self.repeats or (1 if self.quick else usual)

    def usage(self, side: Side) -> Usage:
        """Of one call. A quick run on the CPU only tries what a fresh process would have been given to measure."""
        if self.quick and not self.on_gpu:
            return tried(pickle.loads(pickle.dumps(side)))
        return measure(side, self.device)

    def compare(
        self,
        what: str,
        against: str,
        sizes: dict,
        ours: Side,
        peer: Side | None,
        *,
        rounds: int = 7,
        time_limit: float | None = None,
        memory_limit: float | None = None,
        images: int | None = None,
        note: str = '',
    ) -> Line:
        """Time and extra memory of two sides.

        Args:
            peer: None measures ours alone.
            rounds: usual number of rounds.
            time_limit: largest ratio of the times that meets the target, as ``memory_limit`` for the memory.
            images: processed by a step, for a rate in images/s.
        """
        wait, rounds = waiter(self.device), self.rounds(rounds)
        memory = [self.usage(side).memory for side in (ours, peer) if side is not None]
        if peer is None:
            times = sorted(alone(ours.step(), rounds, wait))
            quantities = [Quantity('time', 's', times[rounds // 2]), Quantity('extra memory', 'bytes', memory[0])]
            quantities += [Quantity('rate', 'images/s', images / times[rounds // 2])] if images else []
        else:
            times = interleave(ours.step(), peer.step(), rounds, wait)
            quantities = [
                compared('time', 's', *times, time_limit),
                compared('extra memory', 'bytes', memory[:1], memory[1:], memory_limit),
            ]
            if images:
                quantities.append(compared('rate', 'images/s', *([images / t for t in side] for side in times)))
        return self.add(Line(what, against, sizes, quantities, note))

    def compare_once(
        self,
        what: str,
        against: str,
        sizes: dict,
        ours: Side,
        peer: Side,
        *,
        rounds: int = 7,
        time_limit: float | None = None,
        memory_limit: float | None = None,
        note: str = '',
    ) -> Line:
        """As :meth:`compare` where the peer takes minutes: it runs once, for time and memory together."""
        memory, theirs = self.usage(ours).memory, self.usage(peer)
        times = alone(ours.step(), self.rounds(rounds), waiter(self.device))
        return self.add(
            Line(
                what,
                against,
                sizes,
                [
                    compared('time', 's', times, [theirs.seconds] * len(times), time_limit),
                    compared('extra memory', 'bytes', [memory], [theirs.memory], memory_limit),
                ],
                note,
            )
        )
