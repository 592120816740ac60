"""SIGTERM and SIGUSR1 during a training: noted here, and obeyed where the state of the run is whole."""

from __future__ import annotations

import signal
import time

PATIENCE = 10.0  # seconds: a launcher passes a signal on that its processes have got already


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGUSR1; everything that cleans up after Ctrl-C does so after this."""

    def __init__(self, number: int = signal.SIGTERM):
        super().__init__()
        self.number = number


class StopRequest:
    """What a signal handler and a training say to each other.

    Attributes:
        number: The signal that asked for the end; None: none has.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._armed = False
        self._when = 0.0

    def arm(self) -> None:
        """From now on somebody looks at ``number`` after every iteration."""
        self._armed = True

    def disarm(self) -> None:
        self._armed = False

    def reset(self) -> None:
        """Forget what was asked for."""
        self.__init__()

    def note(self, number: int) -> bool:
        """Take a signal; False where it has to end the process at once, since nobody looks or it has waited enough."""
        if not self._armed:
            return False
        if self.number is None:
            self.number, self._when = number, time.monotonic()
            return True
        return time.monotonic() - self._when < PATIENCE


stop_request = StopRequest()  # of this process
