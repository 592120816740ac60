"""Times of two workloads that run alternately, so that other load on the machine affects both equally."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch

Step = Callable[[], object]


class Times(NamedTuple):
    """Seconds of each round for both sides, in the same order."""

    ours: list[float]
    peer: list[float]


def waiter(device: str) -> Callable[[], None]:
    """A function that waits until the device has finished."""
    return torch.cuda.synchronize if device.startswith('cuda') else lambda: None


def seconds(step: Step, wait: Callable[[], None]) -> float:
    """Time of one call, including its work on the device."""
    wait()
    start = time.perf_counter()
    step()
    wait()
    return time.perf_counter() - start


def alone(step: Step, rounds: int, wait: Callable[[], None]) -> list[float]:
    """Times of one workload, after a warm-up."""
    step()
    return [seconds(step, wait) for _ in range(rounds)]


def interleave(ours: Step, peer: Step, rounds: int, wait: Callable[[], None]) -> Times:
    """Times of A and B in the order A B, B A, A B, ... after one warm-up of each."""
    ours()
    peer()
    times = Times([], [])
    for turn in range(rounds):
        pair = [(times.ours, ours), (times.peer, peer)]
        for record, step in pair if turn % 2 == 0 else reversed(pair):
            record.append(seconds(step, wait))
    return times
