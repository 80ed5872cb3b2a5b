"""Which space groups a crystal may have after relaxation without having lost symmetry."""

from __future__ import annotations

from functools import cache


@cache
def supergroups(number: int) -> tuple[int, ...]:
    """Numbers of the space groups that can hold every operation of one, its own among them, in order.

    Relaxation gains symmetry where atoms or the cell reach special positions; it may gain translations too, and then
    the cell is a multiple of the new primitive one. Supergroups follow from the tables of maximal
    subgroups (International Tables A1), as pymatgen has them.

    Parameters
    ----------
    number
        Number of the space group, 1 to 230.
    """
    from pymatgen.symmetry.groups import SYMM_DATA

    above: dict[int, set[int]] = {}
    for group, subgroups in SYMM_DATA["maximal_subgroups"].items():
        for subgroup in subgroups:
            above.setdefault(int(subgroup), set()).add(int(group))
    found, new = {number}, {number}
    while new := {group for known in new for group in above.get(known, ())} - found:
        found |= new
    return tuple(sorted(found))
