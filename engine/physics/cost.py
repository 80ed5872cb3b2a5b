"""Expected core-hours of a phono3py calculation: number of force calculations times the cost of one.

The number is counted exactly for single crystals (half a second each), and estimated for whole pools: each atom of
the primitive cell moves along three axes, together with each atom of the supercell along three and back, and the point
group relates most of these; ``18 n_sites n_supercell / order``, fitted to counts. Random displacements take a nearly
constant share of that. A call's cost is a power law of
valence electrons and atoms. Its exponents start from the quadratic scaling of plane-wave codes (G. Kresse,
J. Furthmueller, Comput. Mater. Sci. 6, 15 (1996)), most of it by electrons, and follow the campaign's own finished
calculations by ridge regression. Before one is finished, the cost of a call may be stated: then it grows with the
square of the atoms.

Relaxation and Born charges are no part of the number of calls; the cost of finished calculations holds them, as a
share of each call.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from engine.materials.elements import GROUP
from engine.physics.supercells import SNAPSHOTS

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from engine.materials.crystal import Crystal

CORE_HOURS, ATOMS = "core-hours", "atoms"
VALENCE = np.where(GROUP > 12, GROUP - 10, GROUP)
"""Valence electrons by atomic number: s and d or s and p; semicore states are covered by the fitted factor."""
EXPONENTS = (1.5, 0.5)
"""Prior exponents of the cost of a force calculation in valence electrons and in atoms; together quadratic."""
_EXPONENT_SPREAD = 0.5
"""Prior standard deviation of the exponents between codes."""
_SCATTER, _SCATTER_ROWS = 0.5, 3.0
"""Prior standard deviation of the log cost of one calculation, and its weight in calculations."""
_CALLS_LAW = (4.01, 0.925, 0.954, -0.961)
_ATOMS_LAW = (1.99, 0.067, 0.667)
"""Fitted to the natural logarithms of 187 counts of 128 crystals, 2 to 40 sites, supercells of 32 to 512 atoms."""
_CALLS_PER_SNAPSHOT = 26 / 4
"""All displaced supercells over random ones."""
_POINT_GROUP_ORDERS = (
    (1, 1), (9, 2), (46, 4), (74, 8), (82, 4), (122, 8), (142, 16), (146, 3),
    (161, 6), (167, 12), (174, 6), (190, 12), (194, 24), (199, 12), (220, 24), (230, 48),
)  # fmt: skip
"""Last space group, and order of the point group of all up to it (International Tables for Crystallography A)."""


@dataclass(frozen=True)
class SupercellSettings:
    """Which supercells a calculation of force constants takes."""

    min_length: float
    """Smallest distance in Angstrom between opposite faces of the supercell."""
    pair_cutoff: float | None = None
    """Pairs of displaced atoms farther apart, in Angstrom, are left out."""
    displacements: Literal["systematic", "random"] = "systematic"
    """Every displacement that symmetry leaves, or random ones that symfc fits."""
    fc2_min_length: float | None = None
    """As ``min_length``, for supercells of their own for second order; None: both orders share one."""

    @property
    def key(self) -> list[float | str | None]:
        """The settings as JSON, equal for equal counts."""
        plain: list[float | str | None] = [self.min_length, self.pair_cutoff]
        is_plain = self.displacements == "systematic" and self.fc2_min_length is None
        return plain if is_plain else [*plain, self.displacements, self.fc2_min_length]


@dataclass(frozen=True)
class Workload:
    """Workload of force constants; numbers, or arrays of N crystals."""

    calls: Any
    """Number of displaced supercells for third order (and second, where both share one)."""
    atoms: Any
    """Atoms of one of these."""
    electrons: Any
    """Valence electrons of one of these."""
    exact: bool = True
    """Whether the calls were counted rather than estimated."""
    fc2_calls: Any = 0
    """Number of displaced supercells for second order alone."""
    fc2_atoms: Any = 0
    """Atoms of one of these; 0 without any."""

    @property
    def supercells(self) -> Any:
        """Number of all displaced supercells."""
        return self.calls + self.fc2_calls

    @property
    def most_atoms(self) -> Any:
        """Atoms of the largest supercell."""
        return np.maximum(self.atoms, self.fc2_atoms)

    @property
    def fc2_electrons(self) -> Any:
        """Valence electrons of a supercell for second order alone."""
        return self.electrons * self.fc2_atoms / self.atoms


@dataclass(frozen=True)
class CostModel:
    """Core-hours of a calculation from its workload.

    Without a finished calculation, and without a cost of one call that was stated, the atoms it must compute.
    """

    calculations: int = 0
    """Number of finished calculations that it was fitted to."""
    log_factor: float = 0.0
    """Natural logarithm of the core-hours of a call with one electron and one atom."""
    electron_exponent: float = EXPONENTS[0]
    atom_exponent: float = EXPONENTS[1]
    scatter: float = _SCATTER
    """Standard deviation of the natural logarithm of a calculation's cost about the law."""
    stated: float | None = None
    """Core-hours of a supercell of 100 atoms, growing with the square of the atoms, where nothing was fitted."""

    @classmethod
    def fit(cls, finished: Sequence[tuple[Workload, float]], stated: float | None = None) -> CostModel:
        """Fit to finished calculations: workload and core-hours; those without a positive cost are skipped.

        The factor is fitted from the first one on; the exponents have a prior (ridge regression). ``stated`` are the
        core-hours of a supercell of 100 atoms, which count until one is finished.
        """
        rows = [(w, hours) for w, hours in finished if np.isfinite(hours) and hours > 0]
        if not rows:
            return cls(stated=stated)
        x = np.log([[w.electrons, w.atoms] for w, _ in rows])
        y = np.log([hours / _equal_calls(w) for w, hours in rows])
        centre = x.mean(axis=0)
        ridge = (_SCATTER / _EXPONENT_SPREAD) ** 2 * np.eye(2)
        left = y - y.mean() - (x - centre) @ EXPONENTS
        exponents = EXPONENTS + np.linalg.solve((x - centre).T @ (x - centre) + ridge, (x - centre).T @ left)
        residual = y - y.mean() - (x - centre) @ exponents
        scatter = np.sqrt((np.square(residual).sum() + _SCATTER_ROWS * _SCATTER**2) / (len(rows) + _SCATTER_ROWS))
        factor = y.mean() - centre @ exponents
        return cls(len(rows), float(factor), float(exponents[0]), float(exponents[1]), float(scatter))

    @property
    def unit(self) -> str:
        """``core-hours``, or ``atoms`` where no cost is known."""
        return CORE_HOURS if self.in_core_hours else ATOMS

    @property
    def in_core_hours(self) -> bool:
        """Whether a cost in core-hours was fitted or stated."""
        return self.calculations > 0 or self.stated is not None

    def predict(self, workload: Workload) -> NDArray[np.float64]:
        """Expected cost in :attr:`unit`, one number or N: the mean of a log-normal about the law.

        In ``atoms`` it is the atoms of all supercells together.
        """
        calls, atoms = np.asarray(workload.calls, dtype=np.float64), np.asarray(workload.atoms, dtype=np.float64)
        if not self.in_core_hours:
            return calls * atoms + np.asarray(workload.fc2_calls * workload.fc2_atoms)
        cost = calls * self.per_call(workload.electrons, atoms)
        if np.any(workload.fc2_calls):
            cost = cost + workload.fc2_calls * self.per_call(workload.fc2_electrons, workload.fc2_atoms)
        return cost

    def per_call(self, electrons: ArrayLike, atoms: ArrayLike) -> NDArray[np.float64]:
        """Core-hours of the forces of one supercell; only where they are known.

        Raises
        ------
        ValueError
            If no calculation is finished and no cost was stated.
        """
        if not self.in_core_hours:
            raise ValueError("no finished calculation gives the cost of a force call; import results with their cost")
        if self.stated is not None:
            return self.stated * (np.asarray(atoms, dtype=np.float64) / 100) ** 2
        log_cost = self.electron_exponent * np.log(electrons) + self.atom_exponent * np.log(atoms)
        return np.exp(self.log_factor + log_cost + self.scatter**2 / 2)

    def __str__(self) -> str:
        """Basis of the costs, as a sentence."""
        if self.stated is not None:
            return (
                f"no calculation is finished: costs are {self.stated:g} core-hours for a supercell of 100 atoms, as "
                "stated, and grow with the square of the atoms"
            )
        if not self.calculations:
            return "no finished calculation gives the cost of a force call: costs are atoms to compute, not core-hours"
        noun = "calculation" if self.calculations == 1 else "calculations"
        return (
            f"costs follow {self.calculations} finished {noun}: electrons^{self.electron_exponent:.2f} "
            f"atoms^{self.atom_exponent:.2f} a force call, within a factor {np.exp(self.scatter):.2g}"
        )

    def to_dict(self) -> dict[str, object]:
        """JSON-ready; ``CostModel(**data)`` is the inverse."""
        return asdict(self)


class WorkloadCounter:
    """Counts of displaced supercells, stored on disk by content hash.

    Parameters
    ----------
    path
        JSON lines, one for each count; created with the first.
    settings
        Which supercells are counted.
    most_atoms
        Displacements of a larger supercell are estimated, since counting them takes minutes.
    """

    def __init__(self, path: Path | str, settings: SupercellSettings, most_atoms: int | None = None):
        self._path = Path(path)
        self._settings = settings
        self._most_atoms = np.inf if most_atoms is None else most_atoms
        self._counted, self._estimated = self._read()

    def __call__(self, crystals: Mapping[str, Crystal]) -> dict[str, Workload]:
        """Workload of each crystal by content hash; up to half a second for each that is not known yet."""
        return {key: self.known(key) or self._count(key, crystals[key]) for key in crystals}

    def known(self, key: str) -> Workload | None:
        """Workload that is stored under a content hash; None where it has to be counted."""
        large = self._estimated.get(key)
        return self._counted.get(key) or (large if large and large.most_atoms > self._most_atoms else None)

    def _count(self, key: str, crystal: Crystal) -> Workload:
        found = count_workload(crystal, self._settings, self._most_atoms)
        is_large = found.most_atoms > self._most_atoms
        (self._estimated if is_large else self._counted)[key] = found
        kind = {"uncounted": True} if is_large else {}
        line = json.dumps({"key": key, "settings": self._settings.key, **asdict(found), **kind})
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as handle:
            handle.write("\n" + line)  # a new line, after the incomplete line of a killed process
        return found

    def _read(self) -> tuple[dict[str, Workload], dict[str, Workload]]:
        """Counts by content hash, and estimates of those with supercells too large to count."""
        counted: dict[str, Workload] = {}
        estimated: dict[str, Workload] = {}
        for line in self._path.read_text(encoding="utf-8").splitlines() if self._path.is_file() else ():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue  # an incomplete line of a killed process: counted again
            key, settings = row.pop("key"), row.pop("settings")
            if settings == self._settings.key:
                kind = estimated if row.pop("uncounted", False) else counted
                kind[key] = Workload(**row)
        return counted, estimated


def count_workload(crystal: Crystal, settings: SupercellSettings, most_atoms: float = np.inf) -> Workload:
    """Workload of a standardised crystal; see :func:`engine.physics.supercells.count_displacements`.

    Displacements of a supercell with more than ``most_atoms`` atoms are estimated.
    """
    from engine.physics.supercells import atoms_in, count_displacements, count_snapshots, supercell_matrix

    matrix, own = supercell_matrix(crystal, settings.min_length), None
    if settings.fc2_min_length is not None:
        own = supercell_matrix(crystal, settings.fc2_min_length)
    atoms, fc2_atoms = atoms_in(crystal, matrix), 0 if own is None else atoms_in(crystal, own)
    electrons = float(VALENCE[crystal.numbers].mean())
    if max(atoms, fc2_atoms) > most_atoms:
        return _large_workload(crystal, settings, (atoms, fc2_atoms), electrons)
    exact = True
    if settings.displacements == "random":
        calls = count_snapshots(crystal, matrix, 3, settings.pair_cutoff)
        fc2_calls = 0 if own is None else count_snapshots(crystal, own, 2)
    else:
        count = count_displacements(crystal, matrix, settings.pair_cutoff)
        calls, exact = count.fc3, count.exact
        # with pairs of an atom and itself only
        fc2_calls = 0 if own is None else count_displacements(crystal, own, pair_cutoff=1e-3).fc2
    return Workload(int(calls), atoms, atoms * electrons, exact, int(fc2_calls), fc2_atoms)


def _large_workload(
    crystal: Crystal, settings: SupercellSettings, atoms: tuple[int, int], electrons: float
) -> Workload:
    """Estimated workload of a crystal whose supercells, of these sizes for third and second order, are too large."""
    from phonopy.structure.symmetry import Symmetry

    from engine.physics.supercells import SYMPREC_CONVENTIONAL, to_phonopy

    spacegroup = Symmetry(to_phonopy(crystal), SYMPREC_CONVENTIONAL).dataset.number
    found = _estimated_calls(len(crystal), [spacegroup], np.array(atoms[0]), crystal.volume / len(crystal), settings)
    calls, fc2_calls = (round(float(number[0])) for number in found)
    return Workload(calls, atoms[0], atoms[0] * electrons, False, fc2_calls, atoms[1])


def _equal_calls(workload: Workload) -> float:
    """Number of calls of one workload, those of second order counted as so many of third order by their size."""
    size = (workload.fc2_atoms / workload.atoms) ** sum(EXPONENTS)
    return float(workload.calls + workload.fc2_calls * size)


def estimate_workload(
    n_sites: ArrayLike,
    spacegroups: ArrayLike,
    volume_per_atom: ArrayLike,
    electrons_per_atom: ArrayLike,
    settings: SupercellSettings,
) -> Workload:
    """Estimated workload of N crystals, a million in a second.

    Parameters
    ----------
    n_sites
        Sites of the primitive cell.
    spacegroups
        Numbers 1 to 230.
    volume_per_atom
        Cubic Angstrom.
    electrons_per_atom
        Mean of :data:`VALENCE` over the sites.
    settings
        Which supercells.
    """
    n, volume = np.asarray(n_sites, dtype=np.float64), np.asarray(volume_per_atom, dtype=np.float64)
    atoms = _estimated_atoms(n, volume, settings.min_length)
    own = settings.fc2_min_length
    fc2_atoms = 0 if own is None else _estimated_atoms(n, volume, own)
    calls, fc2_calls = _estimated_calls(n, spacegroups, atoms, volume, settings)
    return Workload(calls, atoms, atoms * np.asarray(electrons_per_atom), False, fc2_calls, fc2_atoms)


def _estimated_atoms(
    n_sites: NDArray[np.float64], volume_per_atom: NDArray[np.float64], min_length: float
) -> NDArray[np.float64]:
    a, b, c = _ATOMS_LAW
    return np.exp(a + b * np.log(n_sites) + c * np.log(min_length**3 / volume_per_atom))


def _estimated_calls(
    n_sites: ArrayLike,
    spacegroups: ArrayLike,
    atoms: NDArray[Any],
    volume_per_atom: ArrayLike,
    settings: SupercellSettings,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Displaced supercells for third order, and for second order alone, N each."""
    order = point_group_order(spacegroups)
    calls = estimate_calls(n_sites, order, atoms)
    if settings.pair_cutoff is not None:
        calls = calls * np.minimum(1.0, 4 / 3 * np.pi * settings.pair_cutoff**3 / np.asarray(volume_per_atom) / atoms)
    calls = np.maximum(calls, 1.0)
    first = np.maximum(6 * np.asarray(n_sites) / order, 1.0)
    if settings.displacements == "random":
        calls = np.maximum(calls / _CALLS_PER_SNAPSHOT, SNAPSHOTS[3])
        first = np.full_like(first, SNAPSHOTS[2])
    return calls, first if settings.fc2_min_length is not None else np.zeros_like(first)


def estimate_calls(n_sites: ArrayLike, order: ArrayLike, supercell_atoms: ArrayLike) -> NDArray[np.float64]:
    """Displaced supercells from sites of the primitive cell, order of the point group and atoms of the supercell."""
    a, b, c, d = _CALLS_LAW
    return np.exp(a + b * np.log(n_sites) + c * np.log(supercell_atoms) + d * np.log(order))


def point_group_order(spacegroups: ArrayLike) -> NDArray[np.int64]:
    """Order of the point group of each space group, by number."""
    last, order = np.array(_POINT_GROUP_ORDERS).T
    return order[np.searchsorted(last, spacegroups)]
