"""Outcome of a calculation: a thermal conductivity, or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Reason = Literal[
    "imaginary_modes",
    "not_converged",
    "timed_out",
    "symmetry_broken",
    "below_floor",
    "bad_output",
    "calculator_error",
    "rejected",
]
"""Reasons why a calculation gave no value; the store has the same ones, with a sentence for each."""

REASONS: tuple[Reason, ...] = get_args(Reason)


@dataclass(frozen=True)
class Calculated:
    """A lattice thermal conductivity and its provenance."""

    kappa: float
    """W/(m K); the mean over the three directions of a tensor."""
    temperature: float
    """Kelvin."""
    method: str
    """Method, e.g. ``quasi-harmonic Debye model``."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Settings, versions and intermediate results, JSON-ready: text keys, finite plain numbers."""
    core_seconds: float = 0.0
    """Processor time, seconds."""


@dataclass(frozen=True)
class Failed:
    """A calculation that gave no value."""

    reason: Reason
    message: str
    provenance: dict[str, Any] = field(default_factory=dict)
    """Provenance as of :class:`Calculated`, up to the failure."""
    core_seconds: float = 0.0
    """Processor time, seconds."""
    from_outside: bool = False
    """Whether it is not due to the crystal: its process was killed, memory was short, or the potential did not load."""


Outcome = Calculated | Failed


class CalculationError(Exception):
    """Raised inside a calculation that cannot give a value; it ends as :class:`Failed` with this reason."""

    def __init__(self, reason: Reason, message: str):
        super().__init__(message)
        self.reason: Reason = reason
        self.message = message
