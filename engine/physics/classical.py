"""Classical potentials that ship as numbers: Lennard-Jones rare gases, Tersoff silicon, rigid ions.

Each is valid only for the crystals it was fitted to. Sources of the parameters:

- Lennard-Jones: N. Bernardes, Phys. Rev. 112, 1534 (1958), as in Ashcroft and Mermin, Solid State Physics, table 20.1.
- Tersoff silicon: J. Tersoff, Phys. Rev. B 38, 9902 (1988) and 39, 5566 (1989).
- Alkali halides: F. G. Fumi and M. P. Tosi, J. Phys. Chem. Solids 25, 31 and 45 (1964), with the dispersion
  coefficients of J. E. Mayer, J. Chem. Phys. 1, 270 (1933), as tabulated by M. J. L. Sangster and M. Dixon,
  Adv. Phys. 25, 247 (1976).
- MgO: G. Henkelman et al., Phys. Rev. B 72, 115437 (2005), charges of 1.7 e.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.calculators.calculator import Calculator, CalculatorSetupError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from pymatgen.optimization.neighbors import find_points_in_spheres
from scipy.special import erfc

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.tersoff import Tersoff
    from numpy.typing import NDArray

COULOMB = 14.399645  # e^2 / (4 pi epsilon_0) in eV Angstrom
_EV = 1.602176634e-19  # J
_SAME_SITE = 1e-8  # Angstrom
_NEUTRAL = 1e-6  # e


@dataclass(frozen=True)
class LennardJones:
    """4 epsilon ((sigma / r)^12 - (sigma / r)^6)."""

    epsilon: float
    """eV."""
    sigma: float
    """Angstrom."""


LENNARD_JONES = {
    "Ne": LennardJones(0.0031, 2.74),
    "Ar": LennardJones(0.0104, 3.40),
    "Kr": LennardJones(0.0140, 3.65),
    "Xe": LennardJones(0.0200, 3.98),
}


@dataclass(frozen=True)
class PairTerm:
    """A exp(-r / rho) - C / r^6 - D / r^8 between two kinds of ion, beside their charges."""

    a: float
    """eV."""
    rho: float
    """Angstrom."""
    c: float = 0.0
    """eV Angstrom^6."""
    d: float = 0.0
    """eV Angstrom^8."""


@dataclass(frozen=True)
class RigidIons:
    """Charges in e by symbol, and a pair term by the two symbols in alphabetical order."""

    charges: Mapping[str, float]
    pairs: Mapping[tuple[str, str], PairTerm]


class PairPotential(Calculator):
    """Sum of pair terms that are switched off smoothly before a cutoff, and of point charges by Ewald's method."""

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012 - as ASE has it

    def __init__(self, terms: Mapping[tuple[str, str], Any], cutoff: float, charges: Mapping[str, float] | None = None):
        """``terms`` by two symbols in alphabetical order; ``cutoff`` in Angstrom, switched off over its last fifth."""
        super().__init__()
        self._terms = terms
        self._cutoff = cutoff
        self._charges = charges

    def calculate(
        self, atoms: Atoms | None = None, properties: list[str] | None = None, system_changes: list[str] = all_changes
    ) -> None:
        """Energy in eV, forces in eV/Angstrom (n x 3), stress in eV/Angstrom^3 (Voigt)."""
        super().calculate(atoms, properties, system_changes)
        pairs = _Pairs.of(self.atoms, self._cutoff)
        energy, slope = np.zeros(len(pairs.r)), np.zeros(len(pairs.r))
        symbols = np.array(self.atoms.get_chemical_symbols())
        for (one, other), term in self._terms.items():
            of_kind = (symbols[pairs.i] == one) & (symbols[pairs.j] == other)
            of_kind |= (symbols[pairs.i] == other) & (symbols[pairs.j] == one)
            energy[of_kind], slope[of_kind] = _switched(term, pairs.r[of_kind], self._cutoff)
        total, forces, virial = pairs.sum(energy, slope)
        if self._charges is not None:
            charges = np.array([self._charges[s] for s in symbols])
            more = _ewald(self.atoms, charges, pairs, self._cutoff)
            total, forces, virial = total + more[0], forces + more[1], virial + more[2]
        stress = full_3x3_to_voigt_6_stress(virial / self.atoms.get_volume())
        self.results = {"energy": total, "free_energy": total, "forces": forces, "stress": stress}


def lennard_jones(symbol: str) -> PairPotential:
    """Calculator of one rare gas; the cutoff is six sigma."""
    term = LENNARD_JONES[symbol]
    return PairPotential({(symbol, symbol): term}, cutoff=6 * term.sigma)


def tersoff_silicon() -> Tersoff:
    """Calculator of silicon."""
    from ase.calculators.tersoff import Tersoff, TersoffParameters

    parameters = TersoffParameters(**TERSOFF_SILICON)
    return Tersoff({("Si", "Si", "Si"): parameters})


TERSOFF_SILICON = {
    "m": 3.0,
    "gamma": 1.0,
    "lambda3": 0.0,
    "c": 1.0039e5,
    "d": 16.217,
    "h": -0.59825,
    "n": 0.78734,
    "beta": 1.1e-6,
    "lambda2": 1.7322,
    "B": 471.18,
    "R": 2.85,
    "D": 0.15,
    "lambda1": 2.4799,
    "A": 1830.8,
}


class RigidIonCalculator(PairPotential):
    """Rigid ions of the given salts, chosen by the formula of the atoms; other crystals are refused."""

    def __init__(self, models: Mapping[str, RigidIons]):
        """``models`` by formula."""
        super().__init__({}, cutoff=12.0, charges={})
        self._models = {frozenset(model.charges): model for model in models.values()}

    def calculate(
        self, atoms: Atoms | None = None, properties: list[str] | None = None, system_changes: list[str] = all_changes
    ) -> None:
        """As of :class:`PairPotential`; raises ``CalculatorSetupError`` for other crystals."""
        symbols = (self.atoms if atoms is None else atoms).get_chemical_symbols()
        model = self._models.get(frozenset(symbols))
        if model is None or abs(sum(model.charges[s] for s in symbols)) > _NEUTRAL:
            raise CalculatorSetupError(f"no rigid-ion model of {''.join(sorted(set(symbols)))} in these proportions")
        self._terms, self._charges = model.pairs, model.charges
        super().calculate(atoms, properties, system_changes)


def _fumi_tosi(
    cation: str,
    anion: str,
    rho: float,
    radii: tuple[float, float],
    c: tuple[float, float, float],
    d: tuple[float, float, float],
) -> RigidIons:
    """Build a salt from Fumi and Tosi's table.

    ``rho`` and the two ``radii`` in Angstrom; ``c`` in 1e-79 J m^6 and ``d`` in 1e-99 J m^8, each for cation-cation,
    cation-anion and anion-anion.
    """
    b = 0.338e-19 / _EV
    outer = {"Li": 2}  # electrons in the outer shell, else 8
    z = (1 / outer.get(cation, 8), -1 / outer.get(anion, 8))
    pauling = (1 + 2 * z[0], 1 + z[0] + z[1], 1 + 2 * z[1])
    kinds = ((cation, cation), (cation, anion), (anion, anion))
    reach = (2 * radii[0], radii[0] + radii[1], 2 * radii[1])
    pairs = {
        (min(kind), max(kind)): PairTerm(
            a=pauling[k] * b * float(np.exp(reach[k] / rho)),
            rho=rho,
            c=c[k] * 1e-79 * 1e60 / _EV,
            d=d[k] * 1e-99 * 1e80 / _EV,
        )
        for k, kind in enumerate(kinds)
    }
    return RigidIons({cation: 1.0, anion: -1.0}, pairs)


_RADII = {
    "Li": 0.816, "Na": 1.170, "K": 1.463, "Rb": 1.587, "F": 1.179, "Cl": 1.585, "Br": 1.716, "I": 1.907,
}  # fmt: skip
_FUMI_TOSI: dict[tuple[str, str], tuple[float, tuple[float, float, float], tuple[float, float, float]]] = {
    ("Li", "F"): (0.299, (0.073, 0.8, 14.5), (0.03, 0.6, 17.0)),
    ("Na", "F"): (0.330, (1.68, 4.5, 16.5), (0.8, 3.8, 20.0)),
    ("K", "F"): (0.338, (24.3, 19.5, 18.6), (24.0, 21.0, 22.0)),
    ("Rb", "F"): (0.328, (59.4, 31.0, 18.9), (82.0, 40.0, 23.0)),
    ("Li", "Cl"): (0.342, (0.073, 2.0, 111.0), (0.03, 2.4, 223.0)),
    ("Na", "Cl"): (0.317, (1.68, 11.2, 116.0), (0.8, 13.9, 233.0)),
    ("K", "Cl"): (0.337, (24.3, 48.0, 124.5), (24.0, 73.0, 250.0)),
    ("Rb", "Cl"): (0.318, (59.4, 79.0, 130.0), (82.0, 134.0, 260.0)),
    ("Li", "Br"): (0.353, (0.073, 2.5, 183.0), (0.03, 3.3, 423.0)),
    ("Na", "Br"): (0.340, (1.68, 14.0, 196.0), (0.8, 19.0, 450.0)),
    ("K", "Br"): (0.335, (24.3, 60.0, 206.0), (24.0, 99.0, 470.0)),
    ("Rb", "Br"): (0.335, (59.4, 99.0, 215.0), (82.0, 180.0, 490.0)),
    ("Li", "I"): (0.430, (0.073, 3.3, 363.0), (0.03, 5.3, 1060.0)),
    ("Na", "I"): (0.386, (1.68, 19.1, 392.0), (0.8, 31.0, 1100.0)),
    ("K", "I"): (0.355, (24.3, 82.0, 403.0), (24.0, 156.0, 1130.0)),
    ("Rb", "I"): (0.337, (59.4, 135.0, 428.0), (82.0, 280.0, 1200.0)),
}
RIGID_IONS: dict[str, RigidIons] = {
    f"{cation}{anion}": _fumi_tosi(cation, anion, rho, (_RADII[cation], _RADII[anion]), c, d)
    for (cation, anion), (rho, c, d) in _FUMI_TOSI.items()
} | {
    "MgO": RigidIons(
        {"Mg": 1.7, "O": -1.7},
        {("Mg", "O"): PairTerm(926.69, 0.29909), ("O", "O"): PairTerm(4870.0, 0.2670, 77.0)},
    )
}


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Directed pairs of atoms within a cutoff: indices, vectors from i to j (m x 3) and distances."""

    i: NDArray[np.int64]
    j: NDArray[np.int64]
    vectors: NDArray[np.float64]
    r: NDArray[np.float64]
    n_atoms: int

    @classmethod
    def of(cls, atoms: Atoms, cutoff: float) -> _Pairs:
        positions, cell = np.ascontiguousarray(atoms.positions), np.ascontiguousarray(atoms.cell.array)
        periodic = np.array([1, 1, 1], dtype=np.int64)
        i, j, images, r = find_points_in_spheres(
            positions, positions, r=cutoff, pbc=periodic, lattice=cell, tol=_SAME_SITE
        )
        keep = (i != j) | (r > _SAME_SITE)
        i, j, images, r = i[keep], j[keep], images[keep], r[keep]
        return cls(i, j, positions[j] - positions[i] + images @ cell, r, len(atoms))

    def sum(
        self, energy: NDArray[np.float64], slope: NDArray[np.float64]
    ) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
        """Energy, forces (n x 3) and virial (3 x 3) of pair energies and their derivatives; each pair occurs twice."""
        gradient = (slope / self.r)[:, None] * self.vectors
        forces = np.zeros((self.n_atoms, 3))
        np.add.at(forces, self.i, gradient)
        return 0.5 * float(energy.sum()), forces, 0.5 * gradient.T @ self.vectors


def _switched(term: Any, r: NDArray[np.float64], cutoff: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Energy and slope of a pair term, times a polynomial that falls from 1 to 0 with two continuous derivatives."""
    energy, slope = _lennard_jones(term, r) if isinstance(term, LennardJones) else _born_mayer(term, r)
    width = 0.2 * cutoff
    x = np.clip((r - (cutoff - width)) / width, 0.0, 1.0)
    switch = 1 - x**3 * (10 - 15 * x + 6 * x**2)
    return energy * switch, slope * switch - energy * 30 * x**2 * (1 - x) ** 2 / width


def _lennard_jones(term: LennardJones, r: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    s6 = (term.sigma / r) ** 6
    return 4 * term.epsilon * (s6**2 - s6), -24 * term.epsilon * (2 * s6**2 - s6) / r


def _born_mayer(term: PairTerm, r: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    repulsion = term.a * np.exp(-r / term.rho)
    energy = repulsion - term.c / r**6 - term.d / r**8
    return energy, -repulsion / term.rho + 6 * term.c / r**7 + 8 * term.d / r**9


def _ewald(
    atoms: Atoms, charges: NDArray[np.float64], pairs: _Pairs, cutoff: float
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Energy, forces and virial of point charges in a neutral cell, to about 1e-8 of the energy."""
    depth = np.sqrt(-np.log(1e-9))
    alpha = depth / cutoff
    qq = COULOMB * charges[pairs.i] * charges[pairs.j]
    near = qq * erfc(alpha * pairs.r) / pairs.r
    gauss = 2 * alpha / np.sqrt(np.pi) * np.exp(-((alpha * pairs.r) ** 2))
    energy, forces, virial = pairs.sum(near, -near / pairs.r - qq * gauss / pairs.r)

    g = _reciprocal_vectors(atoms, 2 * alpha * depth)
    g2 = (g**2).sum(axis=1)
    weight = 2 * np.pi * COULOMB / atoms.get_volume() * np.exp(-g2 / (4 * alpha**2)) / g2
    phase = atoms.positions @ g.T
    cosine, sine = np.cos(phase), np.sin(phase)
    c, s = charges @ cosine, charges @ sine
    square = weight * (c**2 + s**2)
    energy += float(square.sum()) - COULOMB * alpha / np.sqrt(np.pi) * float((charges**2).sum())
    forces += 2 * charges[:, None] * ((weight * (c * sine - s * cosine)) @ g)
    stretch = 2 * square * (1 / g2 + 1 / (4 * alpha**2))
    virial += (g * stretch[:, None]).T @ g - square.sum() * np.eye(3)
    return energy, forces, virial


def _reciprocal_vectors(atoms: Atoms, radius: float) -> NDArray[np.float64]:
    """All reciprocal lattice vectors but the null vector within ``radius`` (1/Angstrom, with 2 pi), m x 3."""
    reciprocal = 2 * np.pi * atoms.cell.reciprocal().array
    reach = np.floor(radius * np.linalg.norm(atoms.cell.array, axis=1) / (2 * np.pi)).astype(int)
    steps = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), axis=-1).reshape(-1, 3)
    g = steps[np.any(steps != 0, axis=1)] @ reciprocal
    return g[(g**2).sum(axis=1) <= radius**2]
