"""Whether a stage has spin: not at all, as MAGMOM says, parallel, or as the relaxation finds.

The relaxation of a crystal with an element that may carry a moment starts with parallel moments. Where no site keeps
more than 0.02 Bohr magnetons, the limit of pymatgen's ``auto_ispin``, the job goes on without spin.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING

from campaigns.exceptions import ExchangeError

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from campaigns.configuration.incar import Tags
    from campaigns.exchange.presets import Choices


class Spin(StrEnum):
    """Spin of a stage."""

    NONE = "none"
    GIVEN = "given"
    """As the user's MAGMOM or ISPIN says."""
    PARALLEL = "parallel"
    """Moments start parallel, whatever comes of them."""
    TESTED = "tested"
    """Moments start parallel, and the relaxation decides whether later stages have spin."""


_OPEN_SHELLS = ("Ti", "Cu", "Nb", "Tc", "Ru", "Rh", "Ta", "Re", "Os", "Ir", "Pa", "U", "Np", "Pu", "Am", "Cm")
"""Elements beside those of the Materials Project that carry a moment in some compounds (CuO, SrRuO3, UO2)."""


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
    if "MAGMOM" in given:
        return Spin.GIVEN
    if not magnetic_elements(structure, choices) or (choices.magnetism == "nonmagnetic" and "ISPIN" not in given):
        return Spin.NONE
    if "ISPIN" in given and choices.decides_spin:
        return Spin.GIVEN
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
    ways = "[dft] magnetism = 'nonmagnetic' or 'ferromagnetic', or MAGMOM in [dft] incar for each stage"
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
