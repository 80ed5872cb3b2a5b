"""One block of a CIF to a crystal, or a refusal that names the contradiction.

Sites are multiplied by the symmetry operations (:mod:`engine.materials.cif_symmetry`). Copies of a site that fall
together within the rounding of that site's digits are one atom, put on its special position; their number must
divide the order of the group. The result is compared with formula, Z, volume and density in the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.exceptions import CrystalError
from engine.materials.checks import MIN_DISTANCE, RejectionReason, check
from engine.materials.cif_block import Block
from engine.materials.cif_sites import Site, read_lattice, read_sites, refuse_other_kinds
from engine.materials.cif_statements import Statements
from engine.materials.cif_symmetry import Operations, Symmetry, read_symmetry
from engine.materials.crystal import Crystal
from engine.materials.parsing import Parsed, read_species


def parse_cif(payload: bytes) -> Parsed:
    """Parse one block of a CIF.

    Raises
    ------
    CrystalError
        If it cannot be read, or contradicts itself.
    """
    block = Block.parse(payload)
    refuse_other_kinds(block)
    lattice = read_lattice(block)
    rows = read_sites(block, lattice)
    symmetry = read_symmetry(block, lattice)
    statements = Statements.read(block)
    cell, notes = _one_crystal(rows, symmetry, lattice, statements)
    notes += statements.notes
    if block.has("_atom_site_moment_label", "_atom_site_moment_crystalaxis_x"):
        notes.append("magnetic moments are left out")
    numbers, isotopes = read_species([rows[n].symbol for n in cell.rows])
    return Parsed(Crystal(lattice, np.array(numbers), cell.positions), {}, notes, isotopes=isotopes)


# --- one crystal of several interpretations --------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Cell:
    """All atoms of the cell."""

    rows: list[int]
    """Row of the file that each atom is a copy of."""
    positions: NDArray[np.float64]
    """Fractional coordinates, ``n x 3``."""
    counts: list[int]
    """Number of atoms of each row; 0 where it is a repetition."""
    moved: float
    """Largest shift of a row to its special position, Angstrom."""
    again: list[str]
    """Labels of rows that are a copy of an earlier one."""


def _one_crystal(
    rows: list[Site], symmetry: Symmetry, lattice: NDArray[np.float64], statements: Statements
) -> tuple[_Cell, list[str]]:
    symbols = [row.symbol for row in rows]
    crystals: list[tuple[Operations, _Cell]] = []
    faults: list[CrystalError] = []
    for operations in symmetry.candidates:
        try:
            cell = _multiplied(rows, operations, lattice)
            statements.require(_composition(symbols, cell), lattice, cell.counts if len(operations) > 1 else None)
            if len(symmetry.candidates) > 1:  # overlapping atoms cannot be intended
                check(Crystal(lattice, np.array(read_species([symbols[n] for n in cell.rows])[0]), cell.positions))
            crystals.append((operations, cell))
        except CrystalError as error:
            faults.append(error)
    if not crystals:
        raise faults[0]
    different = _different(crystals, symbols)
    if len(different) > 1:
        names = " or ".join(repr(operations.name) for operations, _ in different[:4])
        raise CrystalError(
            RejectionReason.UNREADABLE,
            f"its symmetry {symmetry.words} may be {names}, which give different crystals",
            "list the symmetry operations, or name the setting (such as :1, :2, :H or :R) and the number",
        )
    operations, cell = different[0]
    notes = _what_was_decided(symmetry, operations, cell, statements, rows, lattice)
    return cell, notes


def _what_was_decided(
    symmetry: Symmetry,
    operations: Operations,
    cell: _Cell,
    statements: Statements,
    rows: list[Site],
    lattice: NDArray[np.float64],
) -> list[str]:
    """Notes on choices, and refusal of a symmetry that nothing supports."""
    notes = []
    if symmetry.guessed:
        if not statements.count_atoms:
            raise CrystalError(
                RejectionReason.MISSING_FIELD,
                "the file gives neither its symmetry nor the number of atoms of the cell",
                "add _symmetry_space_group_name_H-M 'P 1' if all atoms are listed, or the symmetry operations",
            )
        notes.append("the file gives no symmetry; 'P 1' agrees with its formula and Z")
    elif len(symmetry.candidates) > 1:
        notes.append(f"of the settings of {symmetry.words}, {operations.name} was used")
    if symmetry.named is not None and len(operations) != len(symmetry.named):
        _require_full_cell(rows, symmetry, cell, statements, lattice)
    if cell.moved > 1e-5:
        notes.append(f"rounded coordinates were put on special positions, by at most {cell.moved:.4f} Angstrom")
    if cell.again:
        notes.append(f"atoms listed again are one: {', '.join(cell.again[:5])}")
    return notes


def _require_full_cell(
    rows: list[Site], symmetry: Symmetry, cell: _Cell, statements: Statements, lattice: NDArray[np.float64]
) -> None:
    """Check operations whose number differs from that of the symbol: both must give the same atoms."""
    assert symmetry.named is not None
    if statements.count_atoms:
        return
    try:
        whole = _multiplied(rows, symmetry.named, lattice)
    except CrystalError:
        whole = None
    if whole is None or len(whole.rows) != len(cell.rows):
        raise CrystalError(
            RejectionReason.UNREADABLE,
            f"the operations listed make {len(cell.rows)} atoms a cell, the symbol {symmetry.words} beside them "
            f"{'others' if whole is None else len(whole.rows)}",
            "list all operations of the group, or name 'P 1' if all atoms of the cell are listed",
        )


def _composition(symbols: Sequence[str], cell: _Cell) -> Counter[str]:
    return Counter(dict.fromkeys(symbols, 0)) + Counter(
        {"D": "H", "T": "H"}.get(symbols[n], symbols[n]) for n in cell.rows
    )


def _different(crystals: list[tuple[Operations, _Cell]], symbols: list[str]) -> list[tuple[Operations, _Cell]]:
    """Interpretations with different atoms; a shift of the origin alone does not count."""
    kept: list[tuple[Operations, _Cell]] = []
    for operations, cell in crystals:
        if not any(_same_atoms(cell, other, symbols) for _, other in kept):
            kept.append((operations, cell))
    return kept


def _same_atoms(a: _Cell, b: _Cell, symbols: list[str]) -> bool:
    if len(a.rows) != len(b.rows):
        return False
    kinds_a, kinds_b = ([symbols[n] for n in cell.rows] for cell in (a, b))
    if sorted(kinds_a) != sorted(kinds_b):
        return False
    rarest = min(set(kinds_a), key=lambda kind: (kinds_a.count(kind), kind))
    start = a.positions[kinds_a.index(rarest)]
    order = np.array(kinds_a)[:, None] == np.array(kinds_b)[None, :]
    for n, kind in enumerate(kinds_b):
        if kind == rarest:
            apart = a.positions[:, None] - start - (b.positions[None, :] - b.positions[n])
            near = (np.abs(apart - np.round(apart)) < 1e-3).all(axis=2) & order
            if near.any(axis=1).all():
                return True
    return False


# --- copies ----------------------------------------------------------------------------------------------------------


def _multiplied(rows: list[Site], operations: Operations, lattice: NDArray[np.float64]) -> _Cell:
    """All atoms of the cell.

    Raises
    ------
    CrystalError
        If copies of a site neither coincide nor are clearly apart.
    """
    if len(operations) == 1:
        return _listed_once(rows, lattice)
    owners: list[int] = []
    blocks: list[NDArray[np.float64]] = []
    counts, again, largest = [0] * len(rows), [], 0.0
    placed = np.empty((0, 3))
    kinds = np.empty(0, dtype=object)
    for n, row in enumerate(rows):
        if _is_there(row, placed[kinds == row.symbol], lattice):
            again.append(row.label)
            continue
        orbit, moved = _orbit(row, operations, lattice)
        largest = max(largest, moved)
        counts[n] = len(orbit)
        owners += [n] * len(orbit)
        blocks.append(orbit)
        placed = np.vstack([placed, orbit])
        kinds = np.concatenate([kinds, np.full(len(orbit), row.symbol, dtype=object)])
    return _Cell(owners, np.vstack(blocks), counts, largest, again)


def _listed_once(rows: list[Site], lattice: NDArray[np.float64]) -> _Cell:
    """Every row is an atom, except repetitions, as on the far border of the cell."""
    from scipy.spatial import cKDTree

    positions = np.array([row.position for row in rows])
    tolerances = np.array([row.tolerance for row in rows])
    near = cKDTree(positions % 1.0 % 1.0, boxsize=1.0).query_pairs(float(tolerances.max()), p=np.inf)
    again = {
        max(m, n)
        for m, n in near
        if rows[m].symbol == rows[n].symbol
        and _coincide(positions[m] - positions[n], float(max(tolerances[m], tolerances[n])), lattice)
    }
    kept = [n for n in range(len(rows)) if n not in again]
    counts = [int(n not in again) for n in range(len(rows))]
    moved = np.linalg.norm((positions - np.array([row.written for row in rows])) @ lattice, axis=1)
    return _Cell(kept, positions[kept], counts, float(moved.max()), [rows[n].label for n in sorted(again)])


def _is_there(row: Site, placed: NDArray[np.float64], lattice: NDArray[np.float64]) -> bool:
    return bool(len(placed)) and bool(_coincide(placed - row.position, row.tolerance, lattice).any())


def _coincide(apart: NDArray[np.float64], tolerance: float, lattice: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mask of differences (``... x 3``, fractional) that rounding explains; atoms half an Angstrom apart are two."""
    apart = apart - np.round(apart)
    return (np.abs(apart) <= tolerance).all(axis=-1) & (np.linalg.norm(apart @ lattice, axis=-1) < MIN_DISTANCE)


def _orbit(row: Site, operations: Operations, lattice: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Copies of a site, ``m x 3``, and how far it was moved to its special position, in Angstrom."""
    images = operations.rotations @ row.position + operations.translations
    apart = images - row.position
    stabiliser = _coincide(apart, row.tolerance, lattice)
    special = row.position + (apart - np.round(apart))[stabiliser].mean(axis=0)
    images = (operations.rotations @ special + operations.translations) % 1.0
    unique: list[NDArray[np.float64]] = []
    for image in images:
        if not any((np.abs((d := image - other) - np.round(d)) < 1e-5).all() for other in unique):
            unique.append(image)
    if len(unique) * int(stabiliser.sum()) != len(operations):
        raise CrystalError(
            RejectionReason.OVERLAPPING_ATOMS,
            f"the {len(operations)} symmetry copies of site {row.label} make {len(unique)} atoms, although "
            f"{int(stabiliser.sum())} of them fall together within its digits",
            "write its coordinates with more digits",
        )
    return np.array(unique), float(np.linalg.norm((special - row.written) @ lattice))
