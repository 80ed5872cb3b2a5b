"""Lattice thermal conductivity from phonons of any interatomic potential, by phono3py.

Relaxation, displaced supercells, forces, second- and third-order force constants, a check for imaginary modes, and the
linearised Boltzmann equation in the relaxation-time approximation (A. Togo, L. Chaput, I. Tanaka, Phys. Rev. B 91,
094306 (2015)) with the coherence term of the Wigner equation (M. Simoncelli, N. Marzari, F. Mauri, Nat. Phys. 15, 809
(2019)). Random displacements and symfc (A. Seko, A. Togo, Phys. Rev. B 110, 214302 (2024)) take far fewer supercells
than pairs of displacements. Long-range fields of polar crystals are left out: a potential has no Born charges.

Run it in a separate process with ``OMP_NUM_THREADS`` and ``RAYON_NUM_THREADS`` set to 1 before anything is imported.
"""

from __future__ import annotations

import sys
import time
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from engine.exceptions import SupercellError, UnknownElementError
from engine.physics.outcome import Calculated, CalculationError, Failed
from engine.physics.relaxation import Guarded, RelaxationSettings, Relaxed, relax
from engine.physics.supercells import SYMPREC, count_displacements, supercell_matrix, to_phonopy

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator
    from numpy.typing import NDArray
    from phono3py import Phono3py

    from engine.materials.crystal import Crystal
    from engine.physics.potential import Potential

PACKAGES = ("phono3py", "phonopy", "phonors", "symfc", "spglib", "ase", "matgl", "torch")
"""Packages whose versions influence the result."""
METHOD = "phonons, RTA"
METHOD_WIGNER = "phonons, RTA and Wigner coherence"


@dataclass(frozen=True)
class PhononSettings:
    """Settings of the calculation."""

    temperature: float = 300.0
    """Kelvin."""
    min_length: float = 7.5
    """Distance in Angstrom between opposite faces of the supercell: 2 x 2 x 2 conventional cells of most cubic ones."""
    displacements: Literal["random", "systematic"] = "random"
    """``random`` with symfc takes a tenth of the supercells; ``systematic`` are phono3py's pairs."""
    distance: float = 0.01
    """Length of a displacement, Angstrom. Random ones of 0.03 include fourth order: silicon 10 % low, 8 % scatter."""
    seed: int = 0
    """Seed of the random displacements; it changes kappa by 1 to 3 %."""
    pair_cutoff: float | None = None
    """Third-order force constants of atoms farther apart, in Angstrom, are zero; None keeps all of the supercell."""
    max_supercells: int = 2_000
    """Largest number of supercells; more are refused before the first force calculation."""
    max_memory: float = 4.0
    """Largest memory in GB for fitting third-order force constants to random displacements; a cutoff reduces it."""
    first_mesh: float = 25.0
    """Length in Angstrom whose inverse is the first mesh's spacing of q-points: 9 x 9 x 9 for silicon."""
    mesh_growth: float = 1.3
    """Factor by which that length grows."""
    last_mesh: float = 42.5
    """Length of the last mesh, 15 x 15 x 15 for silicon; kappa of that mesh is used, and marked if it still changed."""
    mesh_tolerance: float = 0.1
    """Relative change of kappa from one mesh to the next that counts as converged; a finer mesh costs five times."""
    wigner: bool = True
    """Whether to add the coherence term."""
    isotopes: bool = False
    """Whether to add scattering by the natural mixture of isotopes."""
    imaginary_tolerance: float = 0.1
    """THz; imaginary frequencies up to this are attributed to interpolation and float32 forces."""
    floor: float = 0.05
    """W/(m K); lower values are refused as an error of the potential: no crystal conducts less at room temperature."""
    relaxation: RelaxationSettings = field(default_factory=RelaxationSettings)

    def __post_init__(self) -> None:
        """Refuse settings that no calculation can have."""
        positive = ("temperature", "min_length", "distance", "first_mesh", "last_mesh", "mesh_tolerance")
        for name in positive:
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be positive and finite, received {getattr(self, name)}")
        if not 1 < self.mesh_growth < np.inf:
            raise ValueError(f"mesh_growth must be above 1, received {self.mesh_growth}")
        if self.last_mesh < self.first_mesh:
            raise ValueError(f"last_mesh {self.last_mesh} is below first_mesh {self.first_mesh}; give both in Angstrom")
        if self.displacements not in ("random", "systematic"):
            raise ValueError(f"displacements must be 'random' or 'systematic', received {self.displacements!r}")


def calculate_kappa(
    crystal: Crystal, potential: Potential, settings: PhononSettings | None = None
) -> Calculated | Failed:
    """Calculate the lattice thermal conductivity of a crystal.

    Parameters
    ----------
    crystal
        A cell in any setting; it is standardised and relaxed.
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
    found: dict[str, object] = {
        "potential": potential.describe(),
        "settings": asdict(settings),
        "versions": {name: version(name) for name in PACKAGES},
    }
    try:
        # libraries print; standard output is reserved for the JSON of the command line
        with redirect_stdout(sys.stderr):
            kappa = _kappa(crystal, potential, settings, found)
    except CalculationError as error:
        return Failed(error.reason, error.message, found, time.process_time() - start)
    method = METHOD_WIGNER if settings.wigner else METHOD
    return Calculated(kappa, settings.temperature, method, found, time.process_time() - start)


def _kappa(crystal: Crystal, potential: Potential, settings: PhononSettings, found: dict[str, object]) -> float:
    """All steps in order; intermediate results go into ``found``, so that a failure has them."""
    try:
        potential.check_elements(crystal)
    except UnknownElementError as error:
        raise CalculationError("rejected", str(error)) from error
    calculator = potential.calculator()
    relaxed = relax(crystal, calculator, settings.relaxation)
    found["relaxed"] = relaxed.crystal.to_dict()
    found["spacegroup"] = relaxed.spacegroup
    found["relaxation_steps"] = relaxed.steps
    found["energy_per_atom_eV"] = relaxed.energy
    found["volume_change"] = relaxed.volume_change
    phonons = _displaced(relaxed, settings)
    found["supercell_matrix"] = phonons.supercell_matrix.tolist()
    found["n_atoms_supercell"] = len(phonons.supercell)
    found["n_supercells"] = sum(cell is not None for cell in phonons.supercells_with_displacements)
    _set_forces(phonons, Guarded(calculator), found)
    _fit(phonons, settings)
    _refuse_imaginary_modes(phonons, settings, found)
    return _converge(phonons, settings, found)


def _displaced(relaxed: Relaxed, settings: PhononSettings) -> Phono3py:
    """Choose the supercell and its displacements; refuse too large calculations before anything is computed."""
    from phono3py import Phono3py

    matrix = supercell_matrix(relaxed.crystal, settings.min_length)
    unit_cell = to_phonopy(relaxed.crystal)
    phonons = Phono3py(unit_cell, supercell_matrix=matrix, primitive_matrix="P", symprec=SYMPREC)
    if settings.displacements == "systematic":
        try:
            count_displacements(unit_cell, matrix, settings.pair_cutoff).require_at_most(settings.max_supercells)
        except SupercellError as error:
            raise CalculationError("rejected", str(error)) from error
        phonons.generate_displacements(distance=settings.distance, cutoff_pair_distance=settings.pair_cutoff)
        return phonons
    _refuse_large_fit(phonons, settings)
    phonons.generate_displacements(
        distance=settings.distance,
        cutoff_pair_distance=settings.pair_cutoff,
        number_of_snapshots="auto",
        random_seed=settings.seed,
    )
    if len(phonons.displacements) > settings.max_supercells:
        raise CalculationError(
            "rejected",
            f"{len(phonons.displacements):,} random supercells of {len(phonons.supercell)} atoms are above the limit "
            f"of {settings.max_supercells:,}; set a pair cutoff or a shorter supercell",
        )
    return phonons


def _refuse_large_fit(phonons: Phono3py, settings: PhononSettings) -> None:
    from phonopy.interface.symfc import estimate_symfc_memory_usage

    memory = sum(estimate_symfc_memory_usage(phonons.supercell, phonons.symmetry, 3, settings.pair_cutoff))
    if memory > settings.max_memory:
        raise CalculationError(
            "rejected",
            f"fitting third-order force constants of {len(phonons.supercell)} atoms takes {memory:.1f} GB, above the "
            f"limit of {settings.max_memory:g} GB; set a pair cutoff or a shorter supercell",
        )


def _set_forces(phonons: Phono3py, calculator: Calculator, found: dict[str, object]) -> None:
    """Compute the forces of every displaced supercell, the drift removed; those beyond a pair cutoff stay zero."""
    from ase import Atoms

    forces, drifts = [], []
    for cell in phonons.supercells_with_displacements:
        if cell is None:
            forces.append(np.zeros((len(phonons.supercell), 3)))
            continue
        atoms = Atoms(numbers=cell.numbers, cell=cell.cell, scaled_positions=cell.scaled_positions, pbc=True)
        atoms.calc = calculator
        raw = atoms.get_forces()
        drift = raw.mean(axis=0)
        forces.append(raw - drift)
        drifts.append(np.abs(drift).max())
    phonons.forces = np.array(forces)
    found["force_drift_eV_A"] = float(max(drifts))


def _fit(phonons: Phono3py, settings: PhononSettings) -> None:
    if settings.displacements == "random":
        cutoff = None if settings.pair_cutoff is None else f"|cutoff = {settings.pair_cutoff}"
        phonons.produce_fc3(fc_calculator="symfc", fc_calculator_options=cutoff)
    else:
        phonons.produce_fc3()
        phonons.symmetrize_fc3()
        phonons.symmetrize_fc2()


def _refuse_imaginary_modes(phonons: Phono3py, settings: PhononSettings, found: dict[str, object]) -> None:
    """Check for imaginary modes on the finest mesh, where harmonic phonons are still cheap."""
    _set_mesh(phonons, settings.last_mesh)
    phonons.init_phph_interaction()
    phonons.run_phonon_solver()
    frequencies = phonons.get_phonon_data()[0].copy()
    # rounding and float32 forces leave the acoustic modes at the zone centre a little off zero
    gamma = frequencies[phonons.grid.gp_Gamma]
    gamma[np.argsort(np.abs(gamma))[:3]] = 0.0
    found["min_frequency_THz"] = lowest = float(frequencies.min())
    found["max_frequency_THz"] = float(frequencies.max())
    if lowest < -settings.imaginary_tolerance:
        raise CalculationError(
            "imaginary_modes",
            f"the lowest frequency is {lowest:.2f} THz on a {_mesh(phonons)} mesh: the crystal is not stable with this "
            f"potential at zero temperature (tolerance {settings.imaginary_tolerance} THz)",
        )


def _converge(phonons: Phono3py, settings: PhononSettings, found: dict[str, Any]) -> float:
    """Refine the mesh until kappa is converged; the last tensor counts."""
    found["meshes"] = []
    for length in _lengths(settings):
        _set_mesh(phonons, length)
        if found["meshes"] and found["mesh"] == phonons.mesh_numbers.tolist():
            continue
        tensors = _solve(phonons, settings)
        kappa = float(tensors["kappa"][:3].mean())
        if not np.isfinite(kappa) or kappa < 0:
            raise CalculationError("bad_output", f"phono3py gave kappa = {kappa} on a {_mesh(phonons)} mesh")
        found["meshes"].append({"mesh": phonons.mesh_numbers.tolist(), "kappa": kappa})
        found["mesh"] = phonons.mesh_numbers.tolist()
        found |= {f"{name}_tensor_W_mK": values.tolist() for name, values in tensors.items()}
        change = _last_change(found["meshes"])
        found["mesh_converged"] = change is not None and change <= settings.mesh_tolerance
        if found["mesh_converged"]:
            break
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
