"""Expected core-hours of a phono3py calculation: number of force calculations times the cost of one.

The number is counted exactly for single crystals (half a second each), and estimated for whole pools: each atom of
the primitive cell moves along three axes, together with each atom of the supercell along three and back, and the point
group relates most of these; ``18 n_sites n_supercell / order``, fitted to counts. A call's cost is a power law of
valence electrons and atoms. Its exponents start from the quadratic scaling of plane-wave codes (G. Kresse,
J. Furthmueller, Comput. Mater. Sci. 6, 15 (1996)), most of it by electrons, and follow the campaign's own finished
calculations by ridge regression.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.materials.elements import GROUP

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
_POINT_GROUP_ORDERS = (
    (1, 1), (9, 2), (46, 4), (74, 8), (82, 4), (122, 8), (142, 16), (146, 3),
    (161, 6), (167, 12), (174, 6), (190, 12), (194, 24), (199, 12), (220, 24), (230, 48),
)  # fmt: skip
"""Last space group, and order of the point group of all up to it (International Tables for Crystallography A)."""


@dataclass(frozen=True)
class Workload:
    """Workload of third-order force constants; numbers, or arrays of N crystals."""

    calls: Any
    """Number of displaced supercells."""
    atoms: Any
    """Atoms of one supercell."""
    electrons: Any
    """Valence electrons of one supercell."""
    exact: bool = True
    """Whether the calls were counted rather than estimated."""


@dataclass(frozen=True)
class CostModel:
    """Core-hours of a calculation from its workload; without a finished calculation, the atoms it must compute."""

    calculations: int = 0
    """Number of finished calculations that it was fitted to."""
    log_factor: float = 0.0
    """Natural logarithm of the core-hours of a call with one electron and one atom."""
    electron_exponent: float = EXPONENTS[0]
    atom_exponent: float = EXPONENTS[1]
    scatter: float = _SCATTER
    """Standard deviation of the natural logarithm of a calculation's cost about the law."""

    @classmethod
    def fit(cls, finished: Sequence[tuple[Workload, float]]) -> CostModel:
        """Fit to finished calculations: workload and core-hours; those without a positive cost are skipped.

        The factor is fitted from the first one on; the exponents have a prior (ridge regression).
        """
        rows = [(w, hours) for w, hours in finished if np.isfinite(hours) and hours > 0]
        if not rows:
            return cls()
        x = np.log([[w.electrons, w.atoms] for w, _ in rows])
        y = np.log([hours / w.calls for w, hours in rows])
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
        """``core-hours``, or ``atoms`` without a finished calculation."""
        return CORE_HOURS if self.calculations else ATOMS

    def predict(self, workload: Workload) -> NDArray[np.float64]:
        """Expected cost in :attr:`unit`, one number or N: the mean of a log-normal about the law.

        In ``atoms`` it is the atoms of all supercells together.
        """
        calls, atoms = np.asarray(workload.calls, dtype=np.float64), np.asarray(workload.atoms, dtype=np.float64)
        return calls * (self.per_call(workload.electrons, atoms) if self.calculations else atoms)

    def per_call(self, electrons: ArrayLike, atoms: ArrayLike) -> NDArray[np.float64]:
        """Core-hours of the forces of one supercell; only of a model with a finished calculation."""
        if not self.calculations:
            raise ValueError("no finished calculation gives the cost of a force call; import results with their cost")
        log_cost = self.electron_exponent * np.log(electrons) + self.atom_exponent * np.log(atoms)
        return np.exp(self.log_factor + log_cost + self.scatter**2 / 2)

    def __str__(self) -> str:
        """Basis of the costs, as a sentence."""
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
    """Counts of symmetry-reduced displaced supercells, stored on disk by content hash.

    Parameters
    ----------
    path
        JSON lines, one for each count; created with the first.
    min_length
        Smallest distance in Angstrom between opposite faces of the supercell.
    pair_cutoff
        Pairs of displaced atoms farther apart, in Angstrom, are left out.
    """

    def __init__(self, path: Path | str, min_length: float, pair_cutoff: float | None = None):
        self._path = Path(path)
        self._min_length, self._pair_cutoff = min_length, pair_cutoff
        self._settings = [min_length, pair_cutoff]
        self._known = self._read()

    def __call__(self, crystals: Mapping[str, Crystal]) -> dict[str, Workload]:
        """Workload of each crystal by content hash; up to half a second for each that is not known yet."""
        return {key: self._known[key] if key in self._known else self._count(key, crystals[key]) for key in crystals}

    def _count(self, key: str, crystal: Crystal) -> Workload:
        found = count_workload(crystal, self._min_length, self._pair_cutoff)
        self._known[key] = found
        line = json.dumps({"key": key, "settings": self._settings, **asdict(found)})
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as handle:
            handle.write("\n" + line)  # a new line, after the incomplete line of a killed process
        return found

    def _read(self) -> dict[str, Workload]:
        if not self._path.is_file():
            return {}
        known = {}
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue  # an incomplete line of a killed process: counted again
            key, settings = row.pop("key"), row.pop("settings")
            if settings == self._settings:
                known[key] = Workload(**row)
        return known


def count_workload(crystal: Crystal, min_length: float, pair_cutoff: float | None = None) -> Workload:
    """Workload of a standardised crystal; see :func:`engine.physics.supercells.count_displacements`."""
    from engine.physics.supercells import count_displacements, supercell_matrix

    count = count_displacements(crystal, supercell_matrix(crystal, min_length), pair_cutoff)
    electrons = count.n_atoms * float(VALENCE[crystal.numbers].mean())
    return Workload(count.fc3, count.n_atoms, electrons, count.exact)


def estimate_workload(
    n_sites: ArrayLike,
    spacegroups: ArrayLike,
    volume_per_atom: ArrayLike,
    electrons_per_atom: ArrayLike,
    min_length: float,
    pair_cutoff: float | None = None,
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
    min_length, pair_cutoff
        As in :class:`WorkloadCounter`.
    """
    n, volume = np.asarray(n_sites, dtype=np.float64), np.asarray(volume_per_atom, dtype=np.float64)
    a, b, c = _ATOMS_LAW
    atoms = np.exp(a + b * np.log(n) + c * np.log(min_length**3 / volume))
    calls = estimate_calls(n, point_group_order(spacegroups), atoms)
    if pair_cutoff is not None:
        calls = calls * np.minimum(1.0, 4 / 3 * np.pi * pair_cutoff**3 / volume / atoms)
    return Workload(np.maximum(calls, 1.0), atoms, atoms * np.asarray(electrons_per_atom), exact=False)


def estimate_calls(n_sites: ArrayLike, order: ArrayLike, supercell_atoms: ArrayLike) -> NDArray[np.float64]:
    """Displaced supercells from sites of the primitive cell, order of the point group and atoms of the supercell."""
    a, b, c, d = _CALLS_LAW
    return np.exp(a + b * np.log(n_sites) + c * np.log(supercell_atoms) + d * np.log(order))


def point_group_order(spacegroups: ArrayLike) -> NDArray[np.int64]:
    """Order of the point group of each space group, by number."""
    last, order = np.array(_POINT_GROUP_ORDERS).T
    return order[np.searchsorted(last, spacegroups)]
