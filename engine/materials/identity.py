"""Identity of a crystal: the standardised primitive cell, and a content hash that does not depend on the cell.

The hash quantises smooth isometry invariants, not coordinates, so that it needs no canonical origin or site order:
sums over neighbours with a smooth cut-off, passed from site to site a few times as in message passing, so that they
reach several shells, and averaged over the sites. Lengths are in units of the cube root of the volume per atom, so
that only one number depends on the lattice constant. It uses the crystal as given: spglib's result for a crystal
that is symmetric only within its tolerance depends on the order of the sites (one in fifty of our data sets' crystals).

Conventional-to-primitive matrices: spglib documentation, "Transformation to the primitive cell".
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from engine.materials.arrangements import Arrangement
from engine.materials.checks import REACH, surroundings
from engine.materials.crystal import Crystal, Material, PropertyValue

if TYPE_CHECKING:
    from collections.abc import Callable

    import spglib
    from numpy.typing import NDArray

SYMPREC = 0.01
"""Angstrom; tolerance of positions under symmetry operations, as in the Materials Project."""
_SAFE = 5.0
"""In units of SYMPREC: positions farther apart are never identified."""


def identify(
    id: str,
    crystal: Crystal,
    properties: dict[str, PropertyValue] | None = None,
    source: str = "",
    notes: tuple[str, ...] = (),
    isotopes: str = "",
) -> Material:
    """Material of a crystal in any cell that passed :func:`engine.materials.checks.check`.

    ``isotopes`` (``2H``, as of :class:`engine.materials.parsing.Parsed`) makes it another material than the same
    crystal of natural elements, and is stored as the property of that name.
    """
    standardised, spacegroup = standardise(crystal)
    digest = content_hash(crystal, primitive_sites=len(standardised), isotopes=isotopes)
    known = properties or {}
    if isotopes:
        known, notes = known | {"isotopes": isotopes}, (*notes, _isotope_note(isotopes))
    material = Material(id, standardised, digest, spacegroup, known, source, notes, isotopes)
    _ = material.formula, standardised.chemical_system  # once, in the parallel part
    return material


def standardise(crystal: Crystal, symprec: float = SYMPREC) -> tuple[Crystal, int]:
    """The standardised primitive cell and the space-group number, from one call of spglib or none.

    Equal to ``spglib.standardize_cell(to_primitive=True)`` in half the time of calling that and
    ``get_symmetry_dataset``. An :class:`~engine.materials.arrangements.Arrangement` is analysed once, whatever its
    elements and size; it may be rotated, as by spglib itself. Where spglib finds no symmetry at all the
    Niggli-reduced cell is used, in P1.
    """
    # the cell of an arrangement is exact within the usual tolerance
    arrangement = Arrangement.of(crystal) if symprec == SYMPREC else None
    ideal = None if arrangement is None else _standard_arrangement(arrangement, symprec)
    if ideal is None or crystal.volume < ideal.volume:
        return _analysed(crystal, symprec)
    elements = np.array(list(dict.fromkeys(crystal.numbers.tolist())))
    scale = (crystal.volume / ideal.volume) ** (1 / 3)
    return Crystal(scale * ideal.cell.lattice, elements[ideal.cell.numbers - 1], ideal.cell.frac_coords.copy()), (
        ideal.spacegroup
    )


@dataclass(frozen=True, eq=False)
class _Ideal:
    """An arrangement's standardised primitive cell."""

    cell: Crystal
    """Primitive cell at the size of the analysis, with kinds for elements."""
    spacegroup: int
    volume: float
    """Volume of the analysed cell, cubic Angstrom; in a smaller one points of the grid are too close."""


@lru_cache(maxsize=4096)
def _standard_arrangement(arrangement: Arrangement, symprec: float) -> _Ideal | None:
    """Analysis, cached; None for an arrangement that is not a crystal."""
    crystal = arrangement.crystal(step=_SAFE * symprec)
    if crystal is None:
        return None
    return _Ideal(*_analysed(crystal, symprec), crystal.volume)


def _analysed(crystal: Crystal, symprec: float) -> tuple[Crystal, int]:
    """Call spglib."""
    dataset = symmetry_dataset(crystal, symprec)
    if dataset is None:
        return _niggli_reduced(crystal), 1
    to_primitive, from_primitive = _TO_PRIMITIVE[dataset.international[0]]
    _, sites = np.unique(dataset.std_mapping_to_primitive, return_index=True)
    frac_coords = dataset.std_positions[sites] @ from_primitive.T
    return Crystal(to_primitive.T @ dataset.std_lattice, dataset.std_types[sites], _wrapped(frac_coords)), int(
        dataset.number
    )


def content_hash(crystal: Crystal, *, primitive_sites: int, isotopes: str = "") -> str:
    """32 hexadecimal digits, equal for the same crystal in another cell, origin, orientation, handedness or site order.

    Parameters
    ----------
    crystal
        The crystal in any cell, not idealised.
    primitive_sites
        Number of sites in its primitive cell, which distinguishes long polytypes with the same surroundings.
    isotopes
        Nuclides in place of natural mixtures, empty for none.

    Notes
    -----
    Crystals of one formula and number of sites share a hash when their volumes agree within about 0.2 % and their
    shape invariants within 0.004, which is what displacements of some 0.003 Angstrom change. Noise of 1e-6 Angstrom
    splits one or two crystals in a thousand (a value on the edge of its interval);
    :mod:`engine.materials.duplicates` links what was split.
    """
    steps = np.floor(isometry_invariants(crystal) / _INTERVALS + _OFFSETS).astype(np.int64)
    words = [crystal.formula, str(primitive_sites), *map(str, steps.tolist()), *([isotopes] if isotopes else [])]
    return hashlib.sha256("|".join(words).encode()).hexdigest()[:32]


def isometry_invariants(crystal: Crystal) -> NDArray[np.float64]:
    """Three invariants under rotation, origin and choice of cell: log volume per atom (A3), two of the shape.

    A site's state starts as a weight of its element and becomes, at every pass, the sum of its neighbours' states
    times w(x) = (1 - (x/c)^2)^3 cos(q x + 1), x being the distance in units of the cube root of the volume per atom.
    The mean square state after passes 2 and 4 is used, with equal weights of elements, so that a dopant's site counts;
    the oscillating w makes it sensitive to which shell a neighbour is in, four passes reach past ten Angstrom.
    """
    first, second, distances = surroundings(crystal)
    x = distances / crystal.spacing
    pair_weight = (1 - (x / REACH) ** 2) ** 3 * np.cos(_WAVENUMBER * x + 1)
    numbers = crystal.numbers
    even, odd = 1 + 0.5 * np.cos(1.7 * numbers + 0.3), 1 + 0.5 * np.cos(2.3 * numbers + 1.1)
    count = np.bincount(numbers)
    share = odd / (count[numbers] * np.count_nonzero(count))
    state = even
    invariants = [np.log(crystal.volume / len(crystal))]
    for step in range(_PASSES):
        summed = np.bincount(first, pair_weight * state[second], minlength=len(crystal))
        if step % 2:
            invariants.append(np.log1p(share @ summed**2))
        state = (even if step % 2 else odd) * summed
    return np.array(invariants)


_WAVENUMBER = 7.0
_PASSES = 4
_INTERVALS = np.array([2e-3, 4e-3, 4e-3])
# irrational, so that no round number lies on the edge of an interval
_OFFSETS = np.array([0.3819660113, 0.4142135624, 0.7320508076])

# columns are the primitive vectors in the conventional basis
_CENTRINGS = {
    "P": np.eye(3),
    "A": np.array([[2, 0, 0], [0, 1, -1], [0, 1, 1]]) / 2,
    "C": np.array([[1, 1, 0], [-1, 1, 0], [0, 0, 2]]) / 2,
    "R": np.array([[2, -1, -1], [1, 1, -2], [1, 1, 1]]) / 3,
    "I": np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]) / 2,
    "F": np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2,
}
_TO_PRIMITIVE = {letter: (matrix, np.linalg.inv(matrix)) for letter, matrix in _CENTRINGS.items()}


def _isotope_note(isotopes: str) -> str:
    names = [_NAMES.get(nuclide.partition(":")[0], nuclide) for nuclide in isotopes.split(",")]
    return f"{' and '.join(names)} read as an isotope ({isotopes}); models do not see the mass"


_NAMES = {"2H": "deuterium", "3H": "tritium"}


def symmetry_dataset(crystal: Crystal, symprec: float) -> spglib.SpglibDataset | None:
    """Symmetry data set of spglib; None where it finds no symmetry."""
    cell = (crystal.lattice, crystal.frac_coords, crystal.numbers)
    return _or_none("get_symmetry_dataset", cell, symprec=symprec)


def _niggli_reduced(crystal: Crystal) -> Crystal:
    lattice = _or_none("niggli_reduce", crystal.lattice)
    if lattice is None:
        return crystal
    cart = crystal.frac_coords @ crystal.lattice
    return Crystal(lattice, crystal.numbers, _wrapped(cart @ np.linalg.inv(lattice)))


def _or_none(routine: Literal["get_symmetry_dataset", "niggli_reduce"], *args: object, **kwargs: object) -> Any:
    """Call spglib; None where it fails, by an exception or, before version 3, by returning None."""
    import spglib

    call: Callable[..., Any] = {
        "get_symmetry_dataset": spglib.get_symmetry_dataset,
        "niggli_reduce": spglib.niggli_reduce,
    }[routine]
    with warnings.catch_warnings():
        # spglib 2 announces at every call that version 3 will raise instead; both are handled here
        warnings.filterwarnings("ignore", message="Set OLD_ERROR_HANDLING", category=DeprecationWarning)
        try:
            return call(*args, **kwargs)
        except spglib.SpglibError:
            return None


def _wrapped(frac_coords: NDArray[np.float64]) -> NDArray[np.float64]:
    """Coordinates wrapped into [0, 1); -1e-17 % 1.0 is 1.0 in floating point."""
    wrapped = frac_coords % 1.0
    wrapped[wrapped == 1.0] = 0.0
    return wrapped
