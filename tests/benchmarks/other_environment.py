"""What it costs that a potential runs in a process of another environment."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from ase import Atoms

from engine.physics.ase_potentials import AsePotential
from engine.physics.calculator_specs import with_python
from tests.benchmarks.measure import Measure, seconds
from tests.engine.physics.awkward import HOME, Instant
from tests.engine.physics.environments import borrowing_environment
from tests.engine.physics.salts import rocksalt

CALLS = 400
"""The shortest counts, because other programs share the machine."""
FORCE_CALL = 0.05
"""Seconds of a force call on 64 atoms by a fast potential on one core."""


def measure() -> list[Measure]:
    """Seconds that one call for the forces on 64 atoms takes longer there, for a calculator that does nothing."""
    with tempfile.TemporaryDirectory() as folder:
        spec = with_python(f"{HOME}:Instant", borrowing_environment(Path(folder)))
        atoms = rocksalt("NaCl").to_atoms() * (4, 4, 2)
        potential = AsePotential(spec)
        there, here = _seconds(atoms, potential.calculator()), _seconds(atoms, Instant())
    return [
        Measure(
            f"forces on {len(atoms)} atoms in another environment, beyond the calculation",
            there - here,
            FORCE_CALL,
            "s",
            "<= 0.05",
            f"against a force call of {FORCE_CALL * 1000:.0f} ms",
        )
    ]


def _seconds(atoms: Atoms, calculator: object) -> float:
    """Shortest wall time of one call at new positions."""
    atoms = atoms.copy()
    atoms.calc = calculator
    steps = 1e-3 * np.random.default_rng(0).normal(size=(len(atoms), 3))

    def call() -> float:
        atoms.positions += steps
        return seconds(atoms.get_forces)

    return min(call() for _ in range(CALLS))
