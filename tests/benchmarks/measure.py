"""One line of the table, and how time and memory are taken."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

REPEATS = 3
"""Every time is the best of this many, because other programs share the machine."""


@dataclass(frozen=True)
class Measure:
    """What was measured, beside what it is held against."""

    name: str
    ours: float | None
    """In ``unit``; None where nothing could be measured, ``note`` says why."""
    reference: float | None
    """In ``unit``; a limit where there is nothing to run beside it."""
    unit: str
    goal: str = ""
    """``>= 0.70`` or ``<= 1`` of the ratio; empty for what is only told."""
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours over the reference."""
        return self.ours / self.reference if self.ours is not None and self.reference else None

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None where there is none, or nothing was measured."""
        if not self.goal or self.ratio is None:
            return None
        relation, bound = self.goal.split()
        return self.ratio >= float(bound) if relation == ">=" else self.ratio <= float(bound)

    def row(self) -> dict[str, Any]:
        """As JSON keeps it."""
        return vars(self) | {"ratio": self.ratio, "met": self.met}


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def best_seconds(work: Callable[[], Any], repeats: int = REPEATS) -> float:
    """Shortest wall time of several calls."""
    return min(seconds(work) for _ in range(repeats))


def processor_seconds(work: Callable[[], Any]) -> float:
    """Processor time of one call in this process."""
    start = time.process_time()
    work()
    return time.process_time() - start


def peak_gigabytes(who: int = resource.RUSAGE_SELF) -> float:
    """Largest resident memory so far of this process, or of the largest of its ended children."""
    kilobytes = resource.getrusage(who).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return kilobytes / 1024**2
