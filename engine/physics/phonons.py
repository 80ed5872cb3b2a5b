"""Lattice thermal conductivity from phonons of any interatomic potential, by phono3py.

Relaxation, displaced supercells, forces, second- and third-order force constants, a check for imaginary modes (with
second attempts in a larger supercell, or in the structure that the mode leads to), and the
linearised Boltzmann equation in the relaxation-time approximation (A. Togo, L. Chaput, I. Tanaka, Phys. Rev. B 91,
094306 (2015)) with the coherence term of the Wigner equation (M. Simoncelli, N. Marzari, F. Mauri, Nat. Phys. 15, 809
(2019)). Random displacements and symfc (A. Seko, A. Togo, Phys. Rev. B 110, 214302 (2024)) take far fewer supercells
than pairs of displacements. Long-range fields of polar crystals need Born charges, which a potential does not give:
a :class:`~engine.physics.born_charges.PolarCrystal` has them, any other crystal is calculated without.

Run it in a separate process with ``OMP_NUM_THREADS`` and ``RAYON_NUM_THREADS`` set to 1 before anything is imported.
"""

from __future__ import annotations

import sys
import time
from contextlib import redirect_stdout
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.exceptions import BornChargesError, UnknownElementError
from engine.physics.born_charges import PolarCrystal, carried_over
from engine.physics.force_constants import fitted_phonons
from engine.physics.outcome import Calculated, CalculationError, Failed
from engine.physics.phonon_details import details
from engine.physics.phonon_settings import PhononSettings
from engine.physics.relaxation import Guarded, Relaxed, relax
from engine.physics.second_attempts import along_imaginary_mode, in_words, with_larger_supercell

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator
    from numpy.typing import NDArray
    from phono3py import Phono3py

    from engine.materials.crystal import Crystal
    from engine.physics.potential import Potential

PACKAGES = ("phono3py", "phonopy", "phonors", "symfc", "spglib", "ase", "matgl", "torch")
"""Packages whose versions influence the result."""
MOST_DESCENTS = 2
"""Times that a crystal follows an imaginary mode to a structure of lower symmetry."""
CEILING = 1e5
"""W/(m K); higher values are errors: isotopically pure diamond has a few thousand at room temperature."""
METHOD = "phonons, RTA"
METHOD_WIGNER = "phonons, RTA and Wigner coherence"
WITH_CHARGES = ", non-analytical correction"
"""Added to the method of a crystal with Born charges."""


def calculate_kappa(
    crystal: Crystal, potential: Potential, settings: PhononSettings | None = None
) -> Calculated | Failed:
    """Calculate the lattice thermal conductivity of a crystal.

    Parameters
    ----------
    crystal
        A cell in any setting; it is standardised and relaxed. A :class:`PolarCrystal` gets the non-analytical
        correction, and no second attempt at a lower symmetry.
    potential
        Potential that gives the forces.
    settings
        Settings; the defaults if not given.

    Returns
    -------
    outcome
        ``kappa`` is the mean over the directions in W/(m K); provenance holds the tensor, versions, settings and what
        intermediate results. Or the failure with its reason: ``rejected`` (unknown elements, too many supercells),
        ``calculator_error``, ``bad_output``, ``not_converged``, ``symmetry_broken``, ``imaginary_modes``,
        ``below_floor``. A time limit is the caller's.
    """
    settings = settings or PhononSettings()
    start = time.process_time()
    found: dict[str, Any] = {
        "potential": potential.describe(),
        "settings": asdict(settings),
        "versions": {name: version(name) for name in PACKAGES},
        "non_analytical_correction": isinstance(crystal, PolarCrystal),
    }
    try:
        # libraries print; standard output is reserved for the JSON of the command line
        with redirect_stdout(sys.stderr):
            kappa = _kappa(crystal, potential, settings, found)
    except CalculationError as error:
        return Failed(error.reason, error.message, found, time.process_time() - start)
    method = METHOD_WIGNER if settings.wigner else METHOD
    if found["non_analytical_correction"]:
        method += WITH_CHARGES
    if any(attempt["kind"] == "lower_symmetry" for attempt in found["second_attempts"]):
        method += f", relaxed along an imaginary mode to space group {found['spacegroup']}"
    return Calculated(kappa, settings.temperature, method, found, time.process_time() - start)


def _kappa(crystal: Crystal, potential: Potential, settings: PhononSettings, found: dict[str, Any]) -> float:
    """All steps in order; intermediate results go into ``found``, so that a failure has them."""
    try:
        potential.check_elements(crystal)
    except UnknownElementError as error:
        raise CalculationError("rejected", str(error)) from error
    calculator = potential.calculator()
    relaxed = relax(crystal, calculator, settings.relaxation)
    polar = _with_charges(relaxed.crystal, crystal, found) if isinstance(crystal, PolarCrystal) else None
    phonons = _stable(relaxed, calculator, settings, found, polar=polar)
    kappa = _converge(phonons, settings, found)
    found |= details(phonons, settings.temperature)
    return kappa


def _with_charges(relaxed: Crystal, given: PolarCrystal, found: dict[str, Any]) -> PolarCrystal:
    try:
        polar = carried_over(given, relaxed)
    except BornChargesError as error:
        raise CalculationError("rejected", str(error)) from error
    found["born_charges"] = polar.describe()
    return polar


def _stable(
    relaxed: Relaxed,
    calculator: Calculator,
    settings: PhononSettings,
    found: dict[str, Any],
    descents: int = 0,
    polar: PolarCrystal | None = None,
) -> Phono3py:
    """Force constants without imaginary modes, by second attempts where the first has some."""
    found |= {
        "relaxed": relaxed.crystal.to_dict(),
        "spacegroup": relaxed.spacegroup,
        "relaxation_steps": relaxed.steps,
        "energy_per_atom_eV": relaxed.energy,
        "volume_change": relaxed.volume_change,
    }
    attempts: list[dict[str, object]] = found.setdefault("second_attempts", [])
    guarded = Guarded(calculator)
    phonons = fitted_phonons(relaxed.crystal, guarded, settings, found)
    phonons.nac_params = polar.nac_params if polar else None
    if _is_stable(phonons, settings, found):
        return phonons
    if "larger_supercell" in settings.second_attempts:
        larger, attempt = with_larger_supercell(phonons, relaxed.crystal, guarded, settings)
        attempts.append(attempt)
        if larger is not None:
            phonons = larger
            stable = _is_stable(phonons, settings, found)
            attempt["min_frequency_THz"] = found["min_frequency_THz"]
            if stable:
                return phonons
    if "lower_symmetry" in settings.second_attempts and descents < MOST_DESCENTS:
        lower, attempt = along_imaginary_mode(phonons, relaxed, calculator, settings)
        attempts.append(attempt)
        if lower is not None:
            try:
                return _stable(lower, calculator, settings, found, descents + 1)
            except CalculationError as error:
                if error.reason == "imaginary_modes":  # its message has all attempts
                    raise
                attempt["outcome"] = f"space group {lower.spacegroup}, {error.reason}: {error.message}"
    tried = "".join(f"; {in_words(attempt)}" for attempt in attempts)
    raise CalculationError(
        "imaginary_modes",
        f"the lowest frequency is {found['min_frequency_THz']:.2f} THz on a {_mesh(phonons)} mesh: the crystal is not "
        f"stable with this potential at zero temperature (tolerance {settings.imaginary_tolerance} THz){tried}",
    )


def _is_stable(phonons: Phono3py, settings: PhononSettings, found: dict[str, Any]) -> bool:
    """Whether no mode is imaginary on the finest mesh, where harmonic phonons are still cheap."""
    _set_mesh(phonons, settings.last_mesh)
    phonons.init_phph_interaction()
    phonons.run_phonon_solver()
    frequencies = phonons.get_phonon_data()[0].copy()
    # rounding and float32 forces leave the acoustic modes at the zone centre a little off zero
    gamma = frequencies[phonons.grid.gp_Gamma]
    gamma[np.argsort(np.abs(gamma))[:3]] = 0.0
    found["min_frequency_THz"] = lowest = float(frequencies.min())
    found["max_frequency_THz"] = float(frequencies.max())
    return lowest >= -settings.imaginary_tolerance


def _converge(phonons: Phono3py, settings: PhononSettings, found: dict[str, Any]) -> float:
    """Refine the mesh until kappa is converged; the last tensor counts.

    A coarse mesh may miss every scattering process of some modes, which then seem to conduct without limit (AlSb with
    its gap between acoustic and optical modes): a finer one decides.
    """
    found["meshes"], implausible, kappa = [], "", float("nan")
    for length in _lengths(settings):
        _set_mesh(phonons, length)
        if found["meshes"] and found["mesh"] == phonons.mesh_numbers.tolist():
            continue
        tensors = _solve(phonons, settings)
        kappa = float(tensors["kappa"][:3].mean())
        if not 0 <= kappa < CEILING:
            implausible = f"kappa = {kappa:.3g} W/(m K) on a {_mesh(phonons)} mesh"
            continue
        implausible = ""
        found["meshes"].append({"mesh": phonons.mesh_numbers.tolist(), "kappa": kappa})
        found["mesh"] = phonons.mesh_numbers.tolist()
        found |= {f"{name}_tensor_W_mK": values.tolist() for name, values in tensors.items()}
        change = _last_change(found["meshes"])
        found["mesh_converged"] = change is not None and change <= settings.mesh_tolerance
        if found["mesh_converged"]:
            break
    if implausible:
        raise CalculationError(
            "bad_output",
            f"phono3py gave {implausible}, not between 0 and {CEILING:g}; a supercell in which third-order force "
            "constants vanish by symmetry is too small",
        )
    if kappa < settings.floor:
        raise CalculationError(
            "below_floor",
            f"kappa of {kappa:.2g} W/(m K) at {settings.temperature:g} K is below the floor of {settings.floor:g}: the "
            "potential is not reliable for this crystal",
        )
    return kappa


def _lengths(settings: PhononSettings) -> list[float]:
    """Lengths of the meshes, coarse to fine."""
    steps = int(np.log(settings.last_mesh / settings.first_mesh) / np.log(settings.mesh_growth) + 1e-6)
    return [settings.first_mesh * settings.mesh_growth**step for step in range(steps + 1)]


def _set_mesh(phonons: Phono3py, length: float) -> None:
    """Choose a mesh by length, with odd divisions: even ones hold the zone boundary and converge differently."""
    phonons.mesh_numbers = length
    if phonons.grid.grid_matrix is None:
        phonons.mesh_numbers = phonons.mesh_numbers | 1


def _solve(phonons: Phono3py, settings: PhononSettings) -> dict[str, NDArray[np.float64]]:
    """Tensors in W/(m K), each as xx, yy, zz, yz, xz, xy; with the Wigner term also its two parts."""
    phonons.init_phph_interaction()
    phonons.run_thermal_conductivity(
        temperatures=[settings.temperature],
        is_isotope=settings.isotopes,
        transport_type="SMM19" if settings.wigner else None,
    )
    solution = phonons.thermal_conductivity
    names = ("kappa", "kappa_intra", "kappa_inter") if settings.wigner else ("kappa",)
    return {name: np.asarray(getattr(solution, name))[0, 0] for name in names}


def _last_change(meshes: list[dict[str, Any]]) -> float | None:
    """Change from the last but one mesh to the last, relative to the last."""
    if len(meshes) < 2:
        return None
    before, now = (entry["kappa"] for entry in meshes[-2:])
    return float(abs(now - before) / now) if now else None


def _mesh(phonons: Phono3py) -> str:
    return " x ".join(map(str, phonons.mesh_numbers.tolist()))
