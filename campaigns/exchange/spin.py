"""Whether a stage has spin: not at all, as MAGMOM says, parallel, or as the relaxation finds.

The relaxation of a crystal with an element that may carry a moment starts with parallel moments. Where no site keeps
more than 0.02 Bohr magnetons, the limit of pymatgen's ``auto_ispin``, the job goes on without spin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from campaigns.exceptions import ExchangeError
from engine.materials.crystal import Crystal
from engine.materials.symmetry import operations

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pymatgen.core import Structure

    from campaigns.configuration.incar import Tags
    from campaigns.exchange.presets import Choices


class Spin(StrEnum):
    """Spin of a stage."""

    NONE = "none"
    GIVEN = "given"
    """As the user's moments or MAGMOM say."""
    PARALLEL = "parallel"
    """Moments start parallel, whatever comes of them."""
    TESTED = "tested"
    """Moments start parallel, and the relaxation decides whether later stages have spin."""


_OPEN_SHELLS = ("Ti", "Cu", "Nb", "Tc", "Ru", "Rh", "Ta", "Re", "Os", "Ir", "Pa", "U", "Np", "Pu", "Am", "Cm")
"""Elements beside those of the Materials Project that carry a moment in some compounds (CuO, SrRuO3, UO2)."""


MOMENT = "magmom"
"""Name of pymatgen's property of sites that holds a moment, which its input sets write as MAGMOM."""


def with_moments(structure: Structure, moments: Sequence[float] | None) -> Structure:
    """The cell with the moments that the user chose for its sites; as it is without any.

    Supercells of it have the moments too. Displacements are those of the crystal's symmetry, so that forces obey it
    only if each operation maps the moments to themselves, or to their opposites.

    Raises
    ------
    ExchangeError
        If there are more or fewer than atoms, or the order has a lower symmetry than the crystal.
    """
    if moments is None:
        return structure
    symbols = " ".join(site.specie.symbol for site in structure)
    if len(moments) != len(structure):
        raise ExchangeError(
            f"[dft] moments has {len(moments)} values, and its cell {len(structure)} atoms; give one for each of "
            f"{symbols}"
        )
    if not _has_symmetry(structure, np.array(moments)):
        raise ExchangeError(
            f"[dft] moments = {' '.join(f'{moment:g}' for moment in moments)} of {symbols}: the order has a lower "
            "symmetry than the crystal, and the displacements would miss forces; calculate it by hand and import its "
            "label"
        )
    ordered = structure.copy()
    ordered.add_site_property(MOMENT, list(moments))
    return ordered


def _has_symmetry(structure: Structure, moments: NDArray[np.float64]) -> bool:
    """Whether each operation of the crystal maps the moments to themselves, or to their opposites."""
    places = structure.frac_coords
    for rotation, translation in zip(*operations(Crystal.from_structure(structure)), strict=True):
        apart = (places @ rotation.T + translation)[:, None] - places[None]
        nearest = np.linalg.norm((apart - np.rint(apart)) @ structure.lattice.matrix, axis=2).argmin(axis=1)
        if not any(np.allclose(moments[nearest], sign * moments) for sign in (1, -1)):
            return False
    return True


def spin_of(structure: Structure, given: Tags, choices: Choices, *, is_relaxed: bool) -> Spin:
    """Spin of a stage.

    Parameters
    ----------
    structure
        Cell of the stage.
    given
        The user's tags.
    choices
        Settings of the campaign.
    is_relaxed
        Whether a relaxation comes first, or is the stage itself.
    """
    if "MAGMOM" in given or MOMENT in structure.site_properties:
        return Spin.GIVEN
    wanted = str(given.get("ISPIN", "")) if choices.decides_spin else ""
    if not magnetic_elements(structure, choices) or wanted == "1":
        return Spin.NONE
    if choices.magnetism == "nonmagnetic":
        return Spin.PARALLEL if wanted else Spin.NONE
    return Spin.TESTED if choices.decides_spin and is_relaxed else Spin.PARALLEL


def require_order(spins: Mapping[str, Spin], elements: list[str], choices: Choices) -> None:
    """Refuse calculations whose magnetic order nobody has chosen.

    Parameters
    ----------
    spins
        By stage, ``relax``, ``born``, ``forces``.
    elements
        Elements that may carry a moment.

    Raises
    ------
    ExchangeError
        If moments are to be refused and there is no relaxation that looks for them, or MAGMOM is given for some stages
        only.
    """
    if choices.magnetism != "refuse":
        return
    tested = [stage for stage, spin in spins.items() if spin in (Spin.TESTED, Spin.PARALLEL)]
    given = [stage for stage, spin in spins.items() if spin is Spin.GIVEN]
    listed = ", ".join(elements)
    ways = "[dft] magnetism = 'nonmagnetic' or 'ferromagnetic', or its order in [dft] moments"
    if tested and given:
        raise ExchangeError(
            f"{listed} may carry a moment, and MAGMOM is given for {', '.join(given)} but not for "
            f"{', '.join(tested)}; give it for each stage in its own table: relax = {{ MAGMOM = '5 -5 2*0' }}"
        )
    if tested and "relax" not in tested:
        raise ExchangeError(
            f"{listed} may carry a moment, and with [dft] relax = false no relaxation finds out; set {ways}"
        )


def magnetic_elements(structure: Structure, choices: Choices) -> list[str]:
    """Elements that start with a moment: those of the Materials Project, and more where the relaxation decides."""
    from pymatgen.io.vasp.sets import MPRelaxSet

    known = {name.rstrip("0123456789+") for name in MPRelaxSet.CONFIG["INCAR"]["MAGMOM"]}
    known |= set(_OPEN_SHELLS) if choices.decides_spin else set()
    return [symbol for symbol in dict.fromkeys(site.specie.symbol for site in structure) if symbol in known]
