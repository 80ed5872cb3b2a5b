"""Generated candidates: charge-balanced or valence-counted substitution into prototypes.

Rules: common oxidation states; anions more electronegative than cations; half-Heuslers with 8 or 18 valence electrons
(Zeier et al., Nat. Rev. Mater. 1, 16032 (2016)); full Heuslers with 8, 10 or 24 (Graf, Felser, Parkin, Prog. Solid
State Chem. 39, 1 (2011); He et al., Phys. Rev. Lett. 117, 046602 (2016)); perovskites by Goldschmidt's tolerance and
the octahedral factor. Lattice parameters are linear in the radii, fitted to known crystals of the same prototype.
Noble gases and elements without a stable isotope (except Bi) are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from engine.materials.candidate_rules import RULES, Species, ionic_radius, with_charges
from engine.materials.elements import ATOMIC_NUMBERS, ATOMIC_RADIUS, ELECTRONEGATIVITY
from engine.materials.prototypes import build, find
from engine.materials.reference import reference_table
from engine.materials.substitution import Ion, likeliest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.materials.crystal import Crystal

_CHARGED = frozenset({"rocksalt", "zincblende", "wurtzite", "fluorite", "antifluorite", "CsCl", "perovskite"})
_IONIC = frozenset({"rocksalt", "fluorite", "CsCl", "perovskite"})
SUBSTITUTION = "substitution_log10_probability"
"""Property: how likely the substitution is that makes the candidate of a reference compound, see
:mod:`engine.materials.substitution`."""
MEASURED = "measured"
FITTED = "fitted to radii"


@dataclass(frozen=True, eq=False)
class Candidate:
    """A generated crystal."""

    id: str
    crystal: Crystal
    formula: str
    """Values in site order."""
    prototype: str
    elements: tuple[str, ...]
    """Values in site order."""
    charges: tuple[int, ...]
    """Oxidation states in site order; empty where valence electrons were counted instead."""
    lattice_source: str
    """``measured``, or ``fitted to radii`` (see :func:`lattice_fits` for the error)."""

    @property
    def properties(self) -> dict[str, str | float]:
        """Properties of the candidate as a material; the likeliest substitution where its ions are known."""
        own: dict[str, str | float] = {"prototype": self.prototype, "lattice_source": self.lattice_source}
        ions = tuple(zip(self.elements, self.charges, strict=True)) if self.charges else ()
        best = likeliest(ions, _known_ions(self.prototype)) if ions else None
        if best is None:
            return own
        known = find(self.prototype).formula(best.known)
        return own | {SUBSTITUTION: round(best.log10_probability, 4), "substituted_in": known}


@dataclass(frozen=True, eq=False)
class LatticeFit:
    """Lattice parameters of one prototype as a linear function of its elements' radii."""

    prototype: str
    ionic: bool
    """Shannon crystal radii of the ions, or atomic radii with electronegativities."""
    n_known: int
    coefficients: NDArray[np.float64]
    """n_features x 2, for a and c in Angstrom."""
    x: float | None
    """Mean internal coordinate of the known crystals."""
    leave_one_out_error: float
    """Mean absolute error of ``a`` in percent, each known crystal predicted from the others."""
    worst_error: float
    """Largest of these errors, in percent."""

    def predict(self, species: list[Species]) -> NDArray[np.float64]:
        """Lattice parameters a and c in Angstrom, n x 2; rounded, so that they do not depend on the linear algebra."""
        return np.round(_features(species, ionic=self.ionic) @ self.coefficients, 4)


@lru_cache(maxsize=1)
def generate_candidates() -> tuple[Candidate, ...]:
    """All candidates, ordered by prototype and formula, without compounds of the reference table."""
    fits = lattice_fits()
    taken = {(e.prototype, frozenset(e.elements)) for e in reference_table()}
    found: list[Candidate] = []
    for prototype, rule in RULES.items():
        species = [s for s in rule() if (prototype, frozenset(s[0])) not in taken]
        unique = sorted({find(prototype).formula(s[0]): s for s in species}.items())
        found += _place(fits[prototype], [s for _, s in unique])
    return tuple(found)


@lru_cache(maxsize=1)
def lattice_fits() -> dict[str, LatticeFit]:
    """Fit the lattice parameters of every prototype that candidates are made in."""
    return {prototype: _fit(prototype) for prototype in RULES}


def _place(fit: LatticeFit, species: list[Species]) -> list[Candidate]:
    """Crystals of all compositions, without those of implausible distances or density."""
    kind = find(fit.prototype)
    known = _known_lattices(fit.prototype)
    placed = []
    for (elements, charges), estimate in zip(species, fit.predict(species), strict=True):
        formula = kind.formula(elements)
        a, c, x = known.get(formula, (float(estimate[0]), float(estimate[1]), fit.x))
        if not _bonds_are_plausible(fit.prototype, elements, a):
            continue
        crystal = build(kind, elements, a, None if kind.is_cubic else c, x)
        if not 0.5 < crystal.density < 22.7:
            continue
        placed.append(
            Candidate(
                id=f"GEN-{fit.prototype}-{formula}",
                crystal=crystal,
                formula=formula,
                prototype=fit.prototype,
                elements=elements,
                charges=charges,
                lattice_source=MEASURED if formula in known else FITTED,
            )
        )
    return placed


@lru_cache(maxsize=len(RULES))
def _known_ions(prototype: str) -> tuple[tuple[Ion, ...], ...]:
    """Ions of the reference compounds of a prototype, where its charges follow from the anion's."""
    if prototype not in _CHARGED:
        return ()
    compounds = sorted({entry.elements for entry in reference_table() if entry.prototype == prototype})
    return tuple(tuple(zip(*with_charges(prototype, elements), strict=True)) for elements in compounds)


def _bonds_are_plausible(prototype: str, elements: tuple[str, ...], a: float) -> bool:
    """Whether the closest pair is at 0.75 to 1.3 times the sum of its atomic radii (references: 0.79 to 1.11)."""
    radii = ATOMIC_RADIUS[[ATOMIC_NUMBERS[e] for e in elements]]
    ratios = find(prototype).shortest_distances * a / (radii[:, None] + radii[None, :])
    return bool(0.75 < ratios.min() < 1.3)


def _fit(prototype: str) -> LatticeFit:
    """Least squares over the known crystals, with the leave-one-out error in closed form."""
    kind = find(prototype)
    known = _known_lattices(prototype)
    ionic = prototype in _IONIC
    compounds = [kind.elements(formula) for formula in known]
    species = [with_charges(prototype, elements) if ionic else (elements, ()) for elements in compounds]
    design = _features(species, ionic=ionic)
    parameters = np.array([(a, c) for a, c, _ in known.values()])
    inverse = np.linalg.pinv(design)
    coefficients = inverse @ parameters
    leverage = np.einsum("ij,ji->i", design, inverse)
    errors = np.abs((parameters - design @ coefficients)[:, 0] / (1 - leverage) / parameters[:, 0]) * 100
    coordinates = [x for _, _, x in known.values() if x is not None]
    return LatticeFit(
        prototype=prototype,
        ionic=ionic,
        n_known=len(known),
        coefficients=coefficients,
        x=round(float(np.mean(coordinates)), 4) if coordinates else None,
        leave_one_out_error=float(errors.mean()),
        worst_error=float(errors.max()),
    )


@cache
def _known_lattices(prototype: str) -> dict[str, tuple[float, float, float | None]]:
    """Collect ``formula -> (a, c, x)`` from the reference table and the lattice constants below."""
    kind = find(prototype)
    known: dict[str, tuple[float, float, float | None]] = {}
    for word in _LATTICE_CONSTANTS.get(prototype, "").split():
        formula, a, *rest = word.split("/")
        known[formula] = (float(a), float(rest[0]) if rest else float(a) * kind.c_over_a, None)
    known.update({e.formula: (e.a, e.c, e.x) for e in reference_table() if e.prototype == prototype})
    return known


def _features(species: list[Species], *, ionic: bool) -> NDArray[np.float64]:
    """Features n x n_features: 1, the radii and, with atomic radii, the electronegativities."""
    ones = np.ones((len(species), 1))
    if not species:
        return ones[:, :0]
    if ionic:
        return np.hstack([ones, np.array([[ionic_radius(*ion) for ion in zip(*s, strict=True)] for s in species])])
    numbers = np.array([[ATOMIC_NUMBERS[e] for e in elements] for elements, _ in species])
    return np.hstack([ones, ATOMIC_RADIUS[numbers], ELECTRONEGATIVITY[numbers]])


_LATTICE_CONSTANTS: dict[str, str] = {
    "rocksalt": """
        MnO/4.445 FeO/4.326 CoO/4.261 NiO/4.177 EuO/5.144 MnS/5.224 MgS/5.200 MgSe/5.462 SrS/6.024 SrSe/6.236 SrTe/6.660
        EuS/5.968 EuSe/6.195 EuTe/6.598 ScN/4.440 YN/4.894 LaN/5.305 GdN/4.999 ScP/5.312 LaP/6.034 ScAs/5.487
        YAs/5.786 LaAs/6.151 GdAs/5.854 ScSb/5.851 YSb/6.165 LaSb/6.490 GdSb/6.219 LaBi/6.578
    """,
    "fluorite": """
        BaF2/6.200 CdF2/5.388 PbF2/5.940 HgF2/5.540 EuF2/5.842 SrCl2/6.977 BaCl2/7.311 CeO2/5.411 ZrO2/5.090 HfO2/5.110
        TbO2/5.213
    """,
    "antifluorite": """
        Li2O/4.619 Na2O/5.550 K2O/6.436 Rb2O/6.740 Li2S/5.708 Na2S/6.526 K2S/7.391 Rb2S/7.650 Li2Se/6.005 Na2Se/6.809
        K2Se/7.676 Li2Te/6.504 Na2Te/7.314 K2Te/8.152 Mg2Pb/6.836 Be2C/4.330
    """,
    "CsCl": "CsCl/4.123 CsBr/4.286 TlI/4.198 RbCl/3.749",
    "full-Heusler": """
        Fe2VAl/5.761 Fe2VGa/5.776 Fe2TiSn/6.074 Co2TiAl/5.847 Co2TiSn/6.076 Co2ZrSn/6.254 Co2VGa/5.779 Co2CrAl/5.727
        Co2NbSn/6.153 Co2HfSn/6.227 Co2ZrAl/6.081 Co2HfAl/6.019 Co2TiGe/5.831 Co2TiSi/5.743 Ni2TiAl/5.872
        Ni2ZrSn/6.273 Ni2HfSn/6.243 Ni2TiSn/6.098 Pd2YSn/6.716 Pd2ScSn/6.503 Pd2YbSn/6.640
        Ru2TiSi/5.963 K2CsSb/8.615 Cs2CsSb/9.128 Li2LiSb/6.572 Li2LiBi/6.722 Na2KSb/7.723 Li2MgSn/6.770
    """,
    "perovskite": """
        BaTiO3/4.012 KNbO3/4.022 NaTaO3/3.930 SrZrO3/4.101 BaHfO3/4.171 BaSnO3/4.116 SrSnO3/4.034 BaCeO3/4.397
        LaAlO3/3.791 LaGaO3/3.875 LaCrO3/3.874 LaFeO3/3.926 KMgF3/3.989 KZnF3/4.055 KMnF3/4.189 KNiF3/4.013 KCoF3/4.071
        KFeF3/4.121 RbMnF3/4.240 RbCaF3/4.452 RbCdF3/4.398 CsCaF3/4.523 CsCdF3/4.464 CsPbF3/4.800 CsCaCl3/5.396
        CsPbCl3/5.605 CsPbBr3/5.874 CsPbI3/6.289 CsSnCl3/5.590 CsSnBr3/5.804 CsSnI3/6.219
    """,
    "chalcopyrite": """
        CuAlS2/5.323/10.44 CuAlSe2/5.602/10.95 CuAlTe2/5.964/11.78 CuGaS2/5.351/10.484 CuGaTe2/6.013/11.934
        CuInS2/5.523/11.141 CuInSe2/5.784/11.614 CuInTe2/6.167/12.34 AgAlS2/5.695/10.26 AgAlSe2/5.956/10.75
        AgAlTe2/6.296/11.83 AgGaTe2/6.288/11.94 AgInS2/5.816/11.17 AgInSe2/6.095/11.69 AgInTe2/6.406/12.56
        ZnSiP2/5.400/10.441 ZnSnP2/5.652/11.305 CdSiP2/5.678/10.431 CdSnP2/5.900/11.518 ZnSnAs2/5.852/11.705
        CdSiAs2/5.884/10.882 CdGeAs2/5.943/11.217 CdSnAs2/6.094/11.918 MgSiP2/5.720/10.12
    """,
}
"""``formula/a`` or ``formula/a/c`` in Angstrom at room temperature (distorted perovskites pseudocubic), from handbooks:
R. W. G. Wyckoff, Crystal Structures (1963); J. L. Shay and J. H. Wernick, Ternary Chalcopyrite Semiconductors (1975);
P. J. Webster and K. R. A. Ziebeck, Landolt-Boernstein III/19c (1988)."""
