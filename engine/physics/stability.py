"""Calculations that tell whether a crystal is stable: its relaxation, and its lowest phonon frequencies.

Each takes a crystal and a potential and returns its figures, or the failure with its reason, as the processes of
:mod:`engine.physics.workers` need it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from engine.exceptions import UnknownElementError
from engine.physics.harmonic import HarmonicSettings, harmonic_modes
from engine.physics.outcome import CalculationError, Failed
from engine.physics.relaxation import RelaxationSettings, relax

if TYPE_CHECKING:
    from engine.materials.crystal import Crystal
    from engine.physics.potential import Potential


@dataclass(frozen=True)
class Figures:
    """Results of one calculation by name, JSON-ready."""

    values: dict[str, Any]
    core_seconds: float
    """Processor time, seconds."""


def relaxation_figures(crystal: Crystal, potential: Potential, settings: RelaxationSettings) -> Figures | Failed:
    """Relax a crystal.

    Returns
    -------
    figures
        ``energy_per_atom_eV``, ``volume_change`` (relative), ``displacement_A`` (largest, within the cell),
        ``spacegroup``, ``steps`` and the relaxed ``crystal``. Or the failure: ``rejected`` (unknown elements),
        ``not_converged``, ``symmetry_broken``, ``calculator_error``, ``bad_output``. A time limit is the caller's.
    """

    def calculate() -> dict[str, Any]:
        relaxed = relax(crystal, potential.calculator(), settings)
        return {
            "energy_per_atom_eV": relaxed.energy,
            "volume_change": relaxed.volume_change,
            "displacement_A": relaxed.displacement,
            "spacegroup": relaxed.spacegroup,
            "steps": relaxed.steps,
            "crystal": relaxed.crystal.to_dict(),
        }

    return _figures(crystal, potential, calculate)


def phonon_figures(crystal: Crystal, potential: Potential, settings: HarmonicSettings) -> Figures | Failed:
    """Compute the lowest frequency of a relaxed crystal at the zone centre and the zone boundary.

    Returns
    -------
    figures
        ``lowest_frequency_THz`` (imaginary: negative), ``highest_frequency_THz``, ``wave_vector`` of the lowest and
        ``n_supercells``, the number of force calculations. Or the failure: ``rejected`` (unknown elements, too many
        force calculations), ``calculator_error``, ``bad_output``.
    """

    def calculate() -> dict[str, Any]:
        modes = harmonic_modes(crystal, potential.calculator(), settings)
        return {
            "lowest_frequency_THz": modes.lowest,
            "highest_frequency_THz": modes.highest,
            "wave_vector": list(modes.wave_vector),
            "n_supercells": modes.n_supercells,
            "phonopy": version("phonopy"),
        }

    return _figures(crystal, potential, calculate)


def _figures(crystal: Crystal, potential: Potential, calculate: Callable[[], dict[str, Any]]) -> Figures | Failed:
    start = time.process_time()
    try:
        potential.check_elements(crystal)
        # libraries print; standard output is reserved for the JSON of the command line
        with redirect_stdout(sys.stderr):
            values = calculate()
    except UnknownElementError as error:
        return Failed("rejected", str(error), core_seconds=time.process_time() - start)
    except CalculationError as error:
        return Failed(error.reason, error.message, core_seconds=time.process_time() - start)
    return Figures(values, time.process_time() - start)
