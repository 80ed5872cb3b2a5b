"""Descriptors of the atoms of a crystal by a potential, and their mean and spread, which do not depend on the cell.

What a potential's network knows of each atom before it reads its energy from it: mean and standard deviation over the
atoms are the same for every choice of a cell of the same crystal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engine.exceptions import PotentialError
from engine.materials.elements import MAX_Z, SYMBOLS
from engine.physics.ase_potentials import AsePotential
from engine.physics.calculator_specs import METHOD, families, read_spec
from engine.physics.potential import KNOWN_COMPOUNDS, KNOWN_ELEMENTS, check_compound

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.materials.crystal import Crystal

TOLERANCE = 0.02
"""Of the descriptors of a crystal in another setting, relative to their length."""
_EXAMPLES = 3
_ADVICE = "its weights are probably not what its library expects: get the current ones"


class Described(NamedTuple):
    """A potential with descriptors that were tested."""

    potential: AsePotential
    elements: frozenset[str]
    """Symbols of the elements that it describes, as far as it tells."""
    examples: dict[str, NDArray[np.float64]]
    """Mean and spread (2d) of known crystals by formula, one to three."""


def load_described(spec: str) -> Described:
    """Make a potential by its name, as of :mod:`engine.physics.calculator_specs`, and test its descriptors.

    A potential of a family must also be right on MgO and NaCl, where it knows them; forces are not tested, since an
    embedding needs none.

    Raises
    ------
    PotentialError
        If it cannot be made, is wrong, or has no descriptors that rotations and the choice of a cell leave alone.
    """
    require_descriptors(spec)
    potential = AsePotential(spec)
    examples: dict[str, NDArray[np.float64]] = {}
    numbers: list[int] = []
    failed = "it covers none of them"
    for formula, crystal in known_crystals().items():
        if len(examples) == _EXAMPLES or not set(crystal.symbols) <= potential.elements:
            continue
        try:
            descriptors, numbers = potential.descriptors(crystal.to_atoms())
            found = mean_and_spread(descriptors)
        except Exception as error:  # a calculator that does not cover an element may raise anything
            failed = f"{formula}: {type(error).__name__}: {error}"
            continue
        if not examples:
            check_settings(potential, crystal)
        examples[formula] = found
    if not examples:
        raise PotentialError(
            f"potential {potential.name} describes none of {', '.join(known_crystals())}, so that it cannot be tested "
            f"({failed}); use a calculator that covers one of them"
        )
    elements = known_elements(potential, numbers)
    for compound in KNOWN_COMPOUNDS if read_spec(spec).family else ():
        if set(compound.crystal.symbols) <= elements:
            check_compound(potential, compound, _ADVICE)
    return Described(potential, elements, examples)


def known_crystals() -> dict[str, Crystal]:
    """Crystals that a potential may be tested on, by formula: two compounds, then elements."""
    return {known.formula: known.crystal for known in (*KNOWN_COMPOUNDS, *KNOWN_ELEMENTS)}


def require_descriptors(spec: str) -> None:
    """Raise :class:`PotentialError` if it is not known where a potential's library has descriptors of atoms."""
    read = read_spec(spec)
    if not read.recipe["descriptors"]:
        known = ", ".join(name for name, family in families().items() if family.descriptors)
        raise PotentialError(
            f"where {read.name} has descriptors of atoms is not known, so that it cannot be a backbone; these families "
            f"can: {known}; and any calculator, package.module:Callable, that has a method {METHOD}(atoms)"
        )


def known_elements(potential: AsePotential, numbers: list[int]) -> frozenset[str]:
    """Symbols of the elements that a potential describes, of the atomic numbers that it says it knows (none: all)."""
    told = frozenset(SYMBOLS[z] for z in numbers if 0 < z <= MAX_Z)
    return potential.elements & told if numbers else potential.elements


def mean_and_spread(descriptors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean and standard deviation over n atoms of their descriptors (n x d), 2d.

    Raises
    ------
    ValueError
        If one is not finite.
    """
    if not np.isfinite(descriptors).all():
        raise ValueError("a descriptor is not finite")
    return np.concatenate([descriptors.mean(axis=0), descriptors.std(axis=0)])


def check_settings(potential: AsePotential, crystal: Crystal) -> None:
    """Raise :class:`PotentialError` if a distorted crystal is described otherwise when it is turned or doubled."""
    distorted = crystal.to_atoms() * (2, 1, 1)
    distorted.rattle(0.05, seed=0)
    expected = mean_and_spread(potential.descriptors(distorted)[0])
    turned = distorted.copy()
    turned.rotate(37, (1, 2, 3), rotate_cell=True)
    for what, atoms in {"turned": turned, "in a cell twice as long": distorted * (1, 1, 2)}.items():
        found = mean_and_spread(potential.descriptors(atoms)[0])
        off = float(np.linalg.norm(found - expected) / max(float(np.linalg.norm(expected)), 1e-12))
        if off > TOLERANCE:
            raise PotentialError(
                f"potential {potential.name} gives {crystal.formula}, {what}, descriptors that differ by {off:.0%} "
                f"({TOLERANCE:.0%} is accepted); an embedding must not depend on how a crystal is set up: use "
                "descriptors that do not"
            )
