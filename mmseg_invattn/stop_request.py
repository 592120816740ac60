"""Notes SIGTERM and SIGUSR1 during a training, which then stops when its state can be saved."""

from __future__ import annotations

import signal
import time

PATIENCE = 10.0  # seconds in which a signal may come twice, because launchers pass it on to processes that got it too


class Terminated(KeyboardInterrupt):
    """Raised after SIGTERM or SIGUSR1; it is a KeyboardInterrupt, so that the same code cleans up as after Ctrl-C."""

    def __init__(self, number: int = signal.SIGTERM):
        super().__init__()
        self.number = number


class StopRequest:
    """Passes the request to stop from a signal handler to a training.

    Attributes:
        number: The signal that was received; None if there was none.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._armed = False
        self._when = 0.0

    def arm(self) -> None:
        """Declare that from now on a training checks ``number`` after every iteration."""
        self._armed = True

    def disarm(self) -> None:
        self._armed = False

    def reset(self) -> None:
        """Discard the request, and stop accepting requests."""
        self.__init__()

    def note(self, number: int) -> bool:
        """Note a signal. False if it must end the process at once: no training checks, or it has waited long enough."""
        if not self._armed:
            return False
        if self.number is None:
            self.number, self._when = number, time.monotonic()
            return True
        return time.monotonic() - self._when < PATIENCE


stop_request = StopRequest()  # of this process
