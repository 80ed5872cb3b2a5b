"""Cheap anharmonic estimates of kappa: mode Grueneisen parameters from phonons at two volumes, against AGL.

A sample of first-principles crystals (Phonix) of up to 20 atoms; each takes ten seconds of one thread. What is done is
kept in ``mode_gruneisen.json`` beside this file and not done again. The table goes to ``engine/physics/PHONONS.md``.

Three estimates from the same phonons, none with a fitted constant:

- ``slack``: G. A. Slack's formula (J. Phys. Chem. Solids 34, 321, 1973) with the Debye
  temperature of the phonons and the root mean square of the mode Grueneisen parameters;
- ``relaxation``: ``sum C v^2 t / 3 V`` over modes with the umklapp rate of G. A. Slack and S. Galginaitis, Phys. Rev.
  133, A253 (1964), ``1 / t = h g^2 w^2 T exp(-D / 3 T) / (2 pi M v_s^2 D)``, Grueneisen parameter g of each mode, and
  at most 30 ps, since modes with g near zero scatter by what their volume derivative does not show;
- ``harmonic``: ``sum C v^2 / V``, which knows nothing anharmonic and needs one volume only.
"""

from __future__ import annotations

import gzip
import json
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.benchmarks.measure import Measure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ase.calculators.calculator import Calculator
    from numpy.typing import NDArray
    from phonopy import Phonopy

    from engine.materials.crystal import Crystal
    from engine.physics.potential import Potential

    Array = NDArray[np.float64]

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED = REPOSITORY.parent / "shared"
POTENTIAL = SHARED / "pretrained/TensorNet-MatPES-r2SCAN-v2025.1-PES"
DATA = SHARED / "data/ltc_phonix.jsonl.gz"
RESULTS = Path(__file__).with_suffix(".json")
TABLE = REPOSITORY / "engine/physics/PHONONS.md"
MARKS = ("<!-- table: python -m tests.benchmarks mode_gruneisen -->", "<!-- end of cheap estimates -->")
CRYSTALS = 120
LARGEST = 20
TIME_LIMIT = 75.0
"""Seconds of processor time a crystal; the phonons of some of low symmetry take hours."""
TEMPERATURE = 300.0
LENGTH = 6.0
"""Shortest distance between opposite faces of the supercell, Angstrom."""
STRAIN = 0.01
LONGEST = 3e-11
"""Longest lifetime of a mode, seconds."""
LARGEST_GRUNEISEN = 100.0
STABLE = -0.3
"""THz; lowest frequency of a crystal that counts as stable."""
HBAR, BOLTZMANN, AMU = 1.054571817e-34, 1.380649e-23, 1.66053906660e-27


def measure() -> list[Measure]:
    """Rank correlation with first principles of each estimate, against that of AGL on the same crystals."""
    os.environ.setdefault("RAYON_NUM_THREADS", "1")
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if POTENTIAL.exists() and DATA.exists():
        _complete(results)
    rows = [row for row in results.values() if row["slack"] is not None and row["agl"] is not None]
    if not rows:
        return [Measure("cheap anharmonic estimates", None, None, "", note="no weights or data here")]
    _write_table(list(results.values()), rows)
    agl = _spearman(rows, "agl")
    return [
        Measure(f"Spearman of {name}, {len(rows)} crystals", _spearman(rows, name), agl, "", note="reference: AGL")
        for name in ("slack", "relaxation", "harmonic")
    ]


def sample() -> list[dict[str, Any]]:
    """Records of the crystals in the order in which they are done."""
    with gzip.open(DATA, "rt") as lines:
        records = [json.loads(line) for line in lines]
    small = [record for record in records if len(record["species"]) <= LARGEST]
    return [small[row] for row in np.random.default_rng(0).permutation(len(small))[:CRYSTALS]]


def _complete(results: dict[str, Any]) -> None:
    from engine.materials.crystal import Crystal
    from engine.physics.debye import calculate_kappa
    from engine.physics.outcome import Calculated, CalculationError
    from engine.physics.potentials import load_potential

    potential = load_potential(POTENTIAL)
    for record in sample():
        if record["id"] in results:
            continue
        crystal = Crystal.from_symbols(record["lattice"], record["species"], record["frac_coords"])
        cheap = calculate_kappa(crystal, potential)
        row: dict[str, Any] = {
            "kappa": record["properties"]["kappa_300K_W_mK"],
            "n_sites": len(crystal),
            "agl": cheap.kappa if isinstance(cheap, Calculated) else None,
            "agl_seconds": round(cheap.core_seconds, 2),
            "slack": None,
        }
        start = time.process_time()
        try:
            row |= estimates(_with_limit(crystal, potential))
        except (CalculationError, TimeoutError) as error:
            row["failure"] = str(error)
        row["seconds"] = round(time.process_time() - start, 2)
        results[record["id"]] = row
        RESULTS.write_text(json.dumps(results, indent=0) + "\n")


def _with_limit(crystal: Crystal, potential: Potential) -> dict[str, Array]:
    def late(*_: object) -> None:
        raise TimeoutError(f"longer than {TIME_LIMIT:g} s")

    signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, TIME_LIMIT)
    try:
        return phonons_at_two_volumes(crystal, potential.calculator())
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def phonons_at_two_volumes(crystal: Crystal, calculator: Calculator) -> dict[str, Array]:
    """Frequencies (THz), Grueneisen parameters and squared group velocities ((THz Angstrom)^2), q-points x modes.

    Beside them the weights of the q-points, the volume (Angstrom^3) and the masses (amu) of the primitive cell. Phonons
    in the middle are those of the mean force constants; Grueneisen parameters follow by perturbation.
    """
    from phonopy import Phonopy

    from engine.physics.relaxation import RelaxationSettings, relax
    from engine.physics.supercells import supercell_matrix, to_phonopy

    relaxed = relax(crystal, calculator, RelaxationSettings(force_tolerance=3e-3, max_steps=100)).crystal
    matrix = supercell_matrix(relaxed, LENGTH)
    small, large = (_force_constants(_strained(relaxed, s, calculator), calculator, matrix) for s in (-STRAIN, STRAIN))
    middle = Phonopy(to_phonopy(relaxed), matrix, primitive_matrix="P")
    middle.force_constants = (small.force_constants + large.force_constants) / 2
    middle.run_mesh(30.0, with_eigenvectors=True, with_group_velocities=True, is_gamma_center=False)
    mesh = middle.mesh
    change = 3 * np.log((1 + STRAIN) / (1 - STRAIN))
    gruneisen = np.empty_like(mesh.frequencies)
    for row, q in enumerate(mesh.qpoints):
        vectors = mesh.eigenvectors[row]
        low, high, own = (_dynamical_matrix(each, q) for each in (small, large, middle))
        derivative, value = (
            np.real(np.einsum("ab,ac,cb->b", vectors.conj(), m, vectors)) for m in ((high - low) / change, own)
        )
        gruneisen[row] = -derivative / (2 * value)
    return {
        "freq": mesh.frequencies,
        "weights": mesh.weights,
        "gamma": gruneisen,
        "gv2": (mesh.group_velocities**2).sum(axis=2),
        "V": np.array(relaxed.volume),
        "masses": middle.primitive.masses,
    }


def _strained(crystal: Crystal, strain: float, calculator: Calculator) -> Crystal:
    """All lengths changed by ``strain``, the atoms relaxed."""
    from ase.constraints import FixSymmetry
    from ase.optimize import BFGS

    from engine.materials.crystal import Crystal
    from engine.physics.relaxation import Guarded

    atoms = crystal.to_atoms()
    atoms.set_cell(crystal.lattice * (1 + strain), scale_atoms=True)
    atoms.set_constraint(FixSymmetry(atoms))
    atoms.calc = Guarded(calculator)
    if len(atoms) > 1:
        BFGS(atoms, logfile=None).run(fmax=2e-3, steps=60)
    return Crystal(atoms.cell.array, atoms.numbers, atoms.get_scaled_positions(wrap=False))


def _force_constants(crystal: Crystal, calculator: Calculator, matrix: NDArray[np.int64]) -> Phonopy:
    from phonopy import Phonopy

    from engine.physics.force_constants import forces_of
    from engine.physics.relaxation import Guarded
    from engine.physics.supercells import to_phonopy

    phonons = Phonopy(to_phonopy(crystal), matrix, primitive_matrix="P")
    phonons.generate_displacements(distance=0.01, number_of_snapshots="auto", random_seed=0)
    phonons.forces, _ = forces_of(phonons.supercells_with_displacements, len(phonons.supercell), Guarded(calculator))
    phonons.produce_force_constants(fc_calculator="symfc")
    return phonons


def _dynamical_matrix(phonons: Phonopy, q: Array) -> NDArray[np.complex128]:
    phonons.dynamical_matrix.run(q)
    return np.asarray(phonons.dynamical_matrix.dynamical_matrix)


def estimates(modes: Mapping[str, Array]) -> dict[str, float]:
    """The three estimates of :func:`phonons_at_two_volumes`, W/(m K) (``harmonic``: in units of its own)."""
    frequency, n = modes["freq"], len(modes["masses"])
    real = frequency > 0.05
    omega = 2e12 * np.pi * np.abs(frequency)
    weight = modes["weights"][:, None] / modes["weights"].sum() * np.ones_like(frequency)
    x = np.where(real, HBAR * omega / (BOLTZMANN * TEMPERATURE), 1.0)
    heat = np.where(real, BOLTZMANN * (x / 2 / np.sinh(x / 2)) ** 2, 0.0) * weight
    speed2 = 1e4 * modes["gv2"]  # (m/s)^2
    volume, mass = float(modes["V"]) * 1e-30, float(modes["masses"].mean()) * AMU
    debye = HBAR / BOLTZMANN * np.sqrt(5 / 3 * (weight * omega**2)[real].sum() / weight[real].sum())
    acoustic = debye * n ** (-1 / 3)
    sound = BOLTZMANN * debye / HBAR * (volume / n / (6 * np.pi**2)) ** (1 / 3)
    squares = np.minimum(modes["gamma"] ** 2, LARGEST_GRUNEISEN**2)
    mean = float((heat * np.minimum(squares, 400.0)).sum() / heat.sum())
    rate = HBAR * squares * omega**2 / (mass * sound**2 * acoustic)
    rate *= TEMPERATURE * np.exp(-acoustic / (3 * TEMPERATURE))
    lifetime = 1 / np.maximum(rate, 1 / LONGEST)
    root = np.sqrt(mean)
    constant = 2.43e-6 / (1 - 0.514 / root + 0.228 / root**2)
    size = (volume / n) ** (1 / 3) * 1e10
    return {
        "slack": float(constant * mass / AMU * acoustic**3 * size / (mean * TEMPERATURE * n ** (2 / 3))),
        "relaxation": float((heat * speed2 * lifetime)[real].sum() / 3 / volume),
        "harmonic": float((heat * speed2)[real].sum() / volume),
        "lowest_THz": float(frequency.min()),
    }


def _spearman(rows: list[dict[str, Any]], name: str) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr([row["kappa"] for row in rows], [row[name] for row in rows]).statistic)


def _error(rows: list[dict[str, Any]], name: str) -> float:
    """Mean absolute error in ln kappa after the median ratio is taken out."""
    off = np.array([np.log(row[name] / row["kappa"]) for row in rows])
    return float(np.abs(off - np.median(off)).mean())


def _write_table(every: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    stable = [row for row in rows if row["lowest_THz"] >= STABLE]
    lines = [
        f"{len(every)} crystals of Phonix of up to {LARGEST} atoms, drawn at random (seed 0), TensorNet-r2SCAN; "
        f"{len(every) - len(rows)} without a value. {len(stable)} have no mode below {STABLE:g} THz.",
        "",
        "| estimate | CPU-s a crystal | Spearman, all | MAE ln without bias | Spearman, stable | MAE ln |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name in ("agl", "slack", "relaxation", "harmonic"):
        seconds = np.mean([row["agl_seconds" if name == "agl" else "seconds"] for row in rows])
        figures = [f"{_spearman(part, name):.2f} | {_error(part, name):.2f}" for part in (rows, stable)]
        lines.append(f"| {name} | {seconds:.1f} | {' | '.join(figures)} |")
    text = TABLE.read_text()
    begin, end = text.index(MARKS[0]) + len(MARKS[0]), text.index(MARKS[1])
    TABLE.write_text(text[:begin] + "\n\n" + "\n".join(lines) + "\n\n" + text[end:])
