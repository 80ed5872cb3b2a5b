"""The same crystal under two ids: equal by content hash, or nearly equal, relaxed by two databases' functionals.

Measured on 450 pairs of one bucket from five databases: copies differ by at most 0.044 in root-mean-square site
distance (in units of the cube root of the volume per atom) and 4 % in strain, other structures by at least 0.08.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pymatgen.analysis.structure_matcher import StructureMatcher

    from engine.materials.crystal import Material

MAX_VOLUME_RATIO = 1.10
"""Functionals differ by a few percent in volume; more is another phase or another pressure."""
MAX_SITE_DISTANCE = 0.06
"""Root mean square, in units of the cube root of the volume per atom."""
MAX_LENGTH_STRAIN = 0.05
MAX_ANGLE = 3.0
"""Degrees."""


def same_crystal(a: Material, b: Material) -> bool:
    """Tell whether two materials are one crystal; polymorphs, and other orderings of one lattice, are not."""
    if a.bucket != b.bucket:
        return False
    if a.content_hash == b.content_hash:
        return True
    volumes = sorted((a.crystal.volume, b.crystal.volume))
    if volumes[1] > MAX_VOLUME_RATIO * volumes[0]:
        return False
    # reduced here because the matcher's own cache compares structures site by site, which takes longer than matching
    reduced = (m.crystal.to_structure().get_reduced_structure() for m in (a, b))
    return bool(_matcher().fit(*reduced, skip_structure_reduction=True))


def link_duplicates(
    new: Iterable[Material], known: Mapping[str, Sequence[Material]]
) -> list[tuple[Material, Material | None]]:
    """Pair every new material with the one it is a copy of, or None.

    Parameters
    ----------
    new
        Materials in the order they came; a later one may be a copy of an earlier one.
    known
        Materials there already, by :attr:`Material.bucket`; only those of the new materials' buckets are needed.
    """
    originals = {bucket: list(materials) for bucket, materials in known.items()}
    pairs: list[tuple[Material, Material | None]] = []
    for material in new:
        candidates = originals.setdefault(material.bucket, [])
        original = _first_copy(material, candidates)
        if original is None:
            candidates.append(material)
        pairs.append((material, original))
    return pairs


def _first_copy(material: Material, candidates: list[Material]) -> Material | None:
    """Equal hashes first: they cost nothing and are the closest copy."""
    equal = (c for c in candidates if c.content_hash == material.content_hash)
    near = (c for c in candidates if same_crystal(material, c))
    return next(equal, None) or next(near, None)


@cache
def _matcher() -> StructureMatcher:
    from pymatgen.analysis.structure_matcher import StructureMatcher

    return StructureMatcher(
        ltol=MAX_LENGTH_STRAIN, stol=MAX_SITE_DISTANCE, angle_tol=MAX_ANGLE, primitive_cell=False, scale=True
    )
