"""VASP's inputs through pymatgen's input sets; pseudopotentials are named, never written."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from campaigns.configuration.incar import EDIFF, EDIFFG, Stage, Tags
from campaigns.exceptions import ExchangeError
from campaigns.exchange.functional import is_on
from campaigns.exchange.presets import Choices, choices_of
from campaigns.exchange.pseudopotentials import pseudopotentials
from campaigns.exchange.spin import Spin, magnetic_elements, spin_of

if TYPE_CHECKING:
    from pymatgen.core import Structure
    from pymatgen.io.vasp import Incar

    from campaigns.configuration import DftSection
    from engine.materials.crystal import Crystal

_TIGHT: dict[str, Any] = {
    "ALGO": "Normal",
    "EDIFF": EDIFF,
    "ISMEAR": 0,
    "LCHARG": False,
    "LORBIT": None,
    "LREAL": False,
    "LWAVE": False,
    "PREC": "Accurate",
    "SIGMA": 0.05,
}
_TAGS: dict[Stage, dict[str, Any]] = {
    "relax": {"EDIFFG": EDIFFG, "IBRION": 2, "ISIF": 3, "NSW": 100},
    "born": {"IBRION": -1, "LEPSILON": True, "LPEAD": None, "NSW": 0},
    "forces": {"IBRION": -1, "NSW": 0},
}
_NOT_WITH_BORN = ("NCORE", "NPAR")
"""Tags of parallelisation that VASP's linear response does not support."""
_BY_ATOM = ("MAGMOM", "LDAUU", "LDAUL", "LDAUJ")
"""Tags that pymatgen derives from its own tables; the user's values are written unchanged."""
POLAR_DIFFERENCE = 0.2
"""Difference of Pauling electronegativities of a polar compound; GaSb and PbTe, which are polar, have 0.23."""


@dataclass(frozen=True)
class VaspInputs:
    """Input files of one calculation."""

    files: dict[str, str]
    """Text of the files by name."""
    notes: tuple[str, ...]
    """Warnings of pymatgen."""
    tags: Mapping[str, object]
    """Tags of INCAR."""
    spin: Spin


def vasp_inputs(
    structure: Structure, stage: Stage, dft: DftSection, *, is_layered: bool = False, is_relaxed: bool = True
) -> VaspInputs:
    """INCAR, KPOINTS and POTCAR.spec; sites of an element must be consecutive.

    Relaxation follows ``MPRelaxSet``, static calculations ``MPStaticSet``, with the convergence that force constants
    need: EDIFF 1e-8 eV, forces below 1 meV/Angstrom, projection in reciprocal space. Tags of the preset, and then the
    user's, replace these. Spin is left out unless an element is one that the Materials Project starts with a moment,
    or the user gives MAGMOM. Where the relaxation decides on spin, static calculations have an ``INCAR.nonmagnetic``
    too.

    Parameters
    ----------
    is_layered
        Whether bonds extend in fewer than three dimensions.
    is_relaxed
        Whether a relaxation comes first, or is the stage itself.

    Raises
    ------
    ExchangeError
        If the user's MAGMOM has another number of atoms, or an element has no pseudopotential.
    """
    from pymatgen.io.vasp.sets import MPRelaxSet, MPStaticSet

    choices = choices_of(dft)
    given, notes = _given_tags(stage, dft)
    _check_moments(given, structure, stage)
    spin = spin_of(structure, given, choices, is_relaxed=is_relaxed)
    preset = choices.tags(is_layered=is_layered) | _of_spin(spin, stage)
    of_u = {tag: value for tag, value in given.items() if tag.startswith("LDAU")}
    by_atom = {tag: given.pop(tag) for tag in _BY_ATOM if tag in given}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        input_set = (MPRelaxSet if stage == "relax" else MPStaticSet)(
            structure,
            user_incar_settings=_TIGHT | _TAGS[stage] | preset | given,
            user_potcar_settings=_potcar_settings(structure, dft),
            force_gamma=True,
            sort_structure=False,
        )
        incar = input_set.incar
        # pymatgen leaves out all tags of +U where its own tables have no U
        incar.update(by_atom | (of_u if is_on(of_u.get("LDAU")) else {}))
        # no KPOINTS where the user gave KSPACING
        kpoints = input_set.kpoints
        files = {
            "INCAR": str(incar),
            **_nonmagnetic(incar, spin, stage),
            **({} if kpoints is None else {"KPOINTS": f"{str(kpoints).rstrip()}\n"}),
            "POTCAR.spec": "".join(f"{symbol}\n" for symbol in input_set.potcar_symbols),
        }
    # deprecations of spglib 2 are not notes on this crystal
    said = [" ".join(str(w.message).split()) for w in caught if not issubclass(w.category, DeprecationWarning)]
    # the names of a release replace those of another one on purpose
    notes += [note for note in said if not note.startswith("Overriding POTCARs") or dft.potcar]
    notes += _ferromagnetic(structure, incar, spin, choices)
    return VaspInputs(files, tuple(dict.fromkeys(notes)), dict(incar), spin)


def _of_spin(spin: Spin, stage: Stage) -> Tags | dict[str, Any]:
    """Tags of the spin of a stage; the moment of each site is written where the relaxation decides."""
    if spin is Spin.NONE:
        return {"ISPIN": 1, "MAGMOM": None}
    return {"LORBIT": 11} if spin is Spin.TESTED and stage == "relax" else {}


def _nonmagnetic(incar: Incar, spin: Spin, stage: Stage) -> dict[str, str]:
    """INCAR of a static calculation without spin, used where the relaxation finds no moment."""
    if spin is not Spin.TESTED or stage == "relax":
        return {}
    bare = incar.copy()
    bare.pop("MAGMOM", None)
    bare["ISPIN"] = 1
    return {"INCAR.nonmagnetic": str(bare)}


def _potcar_settings(structure: Structure, dft: DftSection) -> dict[str, str]:
    """Pseudopotential by element, in place of those of ``MPRelaxSet``."""
    if choices_of(dft).potcar_release is None:
        return dft.potcar
    elements = dict.fromkeys(site.specie.symbol for site in structure)
    return {one.element: one.name for one in pseudopotentials(list(elements), dft)}


def _given_tags(stage: Stage, dft: DftSection) -> tuple[Tags, list[str]]:
    """User's tags of a stage, and notes on those that are left out."""
    tags = dft.incar_of(stage)
    dropped = [tag for tag in _NOT_WITH_BORN if tag in tags] if stage == "born" else []
    notes = [f"{tag} = {tags.pop(tag)} is left out of born/INCAR, LEPSILON does not support it" for tag in dropped]
    return tags, notes


def _check_moments(given: Tags, structure: Structure, stage: Stage) -> None:
    if "MAGMOM" not in given:
        return
    words = [word.split("*") for word in str(given["MAGMOM"]).split()]
    count = sum(int(word[0]) if len(word) == 2 and word[0].isdecimal() else 1 for word in words)
    if count not in (len(structure), 3 * len(structure)):
        raise ExchangeError(
            f"[dft] incar: MAGMOM = {given['MAGMOM']!r} has {count} atoms, the cell of the stage {stage} has "
            f"{len(structure)}; give one moment for each atom, for each stage in its own table"
        )


def _ferromagnetic(structure: Structure, incar: Incar, spin: Spin, choices: Choices) -> list[str]:
    """Warning that moments start parallel, unlike the order of many oxides and halides."""
    moments = dict(zip((site.specie.symbol for site in structure), incar.get("MAGMOM", []), strict=False))
    listed = ", ".join(
        f"{symbol} {moments[symbol]:g}" for symbol in magnetic_elements(structure, choices) if symbol in moments
    )
    if spin is Spin.GIVEN or incar.get("ISPIN") != 2 or not listed:
        return []
    if spin is Spin.TESTED and choices.magnetism == "refuse":
        return [
            f"the relaxation starts with parallel moments of {listed} (MAGMOM, in Bohr magnetons); if a site keeps one "
            "the entry fails, because its magnetic order is not known ([dft] magnetism = 'refuse'), and otherwise "
            "later stages have no spin"
        ]
    return [
        f"starts ferromagnetic, with moments of {listed} (MAGMOM, in Bohr magnetons); an antiferromagnetic order needs "
        "a MAGMOM in [dft] incar, one moment for each atom of the stage's cell: relax = { MAGMOM = '5 -5 2*0' }"
    ]


def poscar(structure: Structure) -> str:
    """POSCAR with all digits of the structure."""
    from pymatgen.io.vasp import Poscar

    return str(Poscar(structure, sort_structure=False).get_str(significant_figures=16))


def ordered_structure(crystal: Crystal) -> Structure:
    """The crystal as pymatgen's ``Structure``, sites of an element consecutive, lightest element first."""
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
    # from the table, because Element.X gives a warning where there is no value
    values = [e.data["X"] for e in elements if e.data["X"] is not None]
    has_anion = any(14 <= e.group <= 17 or e.symbol == "B" for e in elements)
    return has_anion and len(values) > 1 and max(values) - min(values) >= POLAR_DIFFERENCE
