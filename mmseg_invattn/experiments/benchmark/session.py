"""One run of the benchmark: its settings, and the comparison of two sides."""

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
        add: function that receives a finished line.
        device: device of the measurements.
        dtypes: see :mod:`.precision`.
        repeats: rounds of every comparison; None uses the number of the comparison.
        quick: use tiny sizes, which only show that everything runs.
        configs: configs of models to measure.
        cfg_options: changes to these configs.
        crop: height and width of the images; None uses those of the config.
        batch: images per batch.
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
        """Usage of one call. A quick run on the CPU does not measure memory; it runs the side in this process."""
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
        """Measures time and extra memory of two sides.

        Args:
            what: name of our side in the table.
            against: name of the peer in the table.
            sizes: sizes for the table.
            ours: our side.
            peer: the other side; None measures only ours.
            rounds: usual number of rounds.
            time_limit: largest ratio of the times that meets the target.
            memory_limit: largest ratio of the memory that meets the target.
            images: images processed by a step, for a rate in images/s.
            note: note for the table.
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
        """As :meth:`compare` for a peer that takes minutes: it runs only once, for time and memory together."""
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
