"""VASP's inputs through pymatgen's input sets; pseudopotentials are named, never written."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from campaigns.exceptions import ExchangeError

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from campaigns.configuration import DftSection
    from engine.materials.crystal import Crystal

Purpose = Literal["relax", "born", "forces"]

_TIGHT: dict[str, Any] = {
    "ALGO": "Normal",
    "EDIFF": 1e-8,
    "ISMEAR": 0,
    "LCHARG": False,
    "LORBIT": None,
    "LREAL": False,
    "LWAVE": False,
    "PREC": "Accurate",
    "SIGMA": 0.05,
}
_TAGS: dict[Purpose, dict[str, Any]] = {
    "relax": {"EDIFFG": -1e-3, "IBRION": 2, "ISIF": 3, "NSW": 100},
    "born": {"IBRION": -1, "LEPSILON": True, "LPEAD": None, "NSW": 0},
    "forces": {"IBRION": -1, "NSW": 0},
}
POLAR_DIFFERENCE = 0.2
"""Of electronegativities (Pauling); GaSb and PbTe, which are polar, have .23."""


@dataclass(frozen=True)
class VaspInputs:
    """Files of one calculation."""

    files: dict[str, str]
    """Text by name."""
    notes: tuple[str, ...]
    """What pymatgen warns of."""


def vasp_inputs(structure: Structure, purpose: Purpose, dft: DftSection) -> VaspInputs:
    """Give INCAR, KPOINTS and POTCAR.spec; sites of an element must stand together.

    Relaxation follows ``MPRelaxSet``, static calculations ``MPStaticSet``, with the convergence that force constants
    need: EDIFF 1e-8 eV, forces below 1 meV/Angstrom, projection in reciprocal space. Spin is left out unless an
    element is one that the Materials Project starts with a moment.
    """
    from pymatgen.io.vasp.sets import MPRelaxSet, MPStaticSet

    elements = list(dict.fromkeys(site.specie.symbol for site in structure))
    incar = _TIGHT | _TAGS[purpose] | ({} if _is_magnetic(elements) else {"ISPIN": 1, "MAGMOM": None}) | dft.incar
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        input_set = (MPRelaxSet if purpose == "relax" else MPStaticSet)(
            structure,
            user_incar_settings=incar,
            user_potcar_settings=dft.potcar,
            force_gamma=True,
            sort_structure=False,
        )
        files = {
            "INCAR": str(input_set.incar),
            "KPOINTS": f"{str(input_set.kpoints).rstrip()}\n",
            "POTCAR.spec": "".join(f"{symbol}\n" for symbol in input_set.potcar_symbols),
        }
    # what spglib 2 says of its own future is no note on this crystal
    notes = [" ".join(str(w.message).split()) for w in caught if not issubclass(w.category, DeprecationWarning)]
    return VaspInputs(files, tuple(dict.fromkeys(notes)))


def require_pseudopotentials(elements: Iterable[str], dft: DftSection) -> None:
    """Refuse elements that neither ``MPRelaxSet`` nor the user names a pseudopotential for.

    Raises
    ------
    ExchangeError
        With the setting that names one.
    """
    from pymatgen.io.vasp.sets import MPRelaxSet

    known = MPRelaxSet.CONFIG["POTCAR"] | dft.potcar
    if missing := [symbol for symbol in elements if symbol not in known]:
        raise ExchangeError(
            f"MPRelaxSet names no pseudopotential for {', '.join(missing)}; name one in campaign.toml, e.g. "
            f'[dft] potcar = {{ {missing[0]} = "{missing[0]}" }}'
        )


def poscar(structure: Structure) -> str:
    """Write a POSCAR that gives the structure back to all digits."""
    from pymatgen.io.vasp import Poscar

    return str(Poscar(structure, sort_structure=False).get_str(significant_figures=16))


def ordered_structure(crystal: Crystal) -> Structure:
    """Give the crystal as pymatgen's ``Structure`` with the sites of an element together, lightest first."""
    structure = crystal.to_structure()
    return structure.from_sites(sorted(structure, key=lambda site: site.specie.Z))


def is_polar(crystal: Crystal, properties: Mapping[str, Any]) -> bool:
    """Whether long-range forces of Born charges are expected: several elements, and an insulator.

    The gap decides where a property ``band_gap*`` is known; otherwise a difference of electronegativity does, if one
    element is boron or of the groups 14 to 17, as in half-Heusler compounds too.
    """
    from pymatgen.core import Element

    elements = [Element(symbol) for symbol in crystal.composition]
    if len(elements) == 1:
        return False
    gaps = [v for name, v in properties.items() if name.startswith("band_gap") and isinstance(v, int | float)]
    if gaps:
        return max(gaps) > 0
    # from the table, because Element.X warns where there is none
    values = [e.data["X"] for e in elements if e.data["X"] is not None]
    has_anion = any(14 <= e.group <= 17 or e.symbol == "B" for e in elements)
    return has_anion and len(values) > 1 and max(values) - min(values) >= POLAR_DIFFERENCE


def _is_magnetic(elements: list[str]) -> bool:
    from pymatgen.io.vasp.sets import MPRelaxSet

    moments = {name.rstrip("0123456789+") for name in MPRelaxSet.CONFIG["INCAR"]["MAGMOM"]}
    return not moments.isdisjoint(elements)
