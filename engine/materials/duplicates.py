"""The same crystal under two ids: equal by content hash, or nearly equal, relaxed by two databases' functionals.

Measured on 450 pairs of one bucket from five databases: copies differ by at most 0.044 in root-mean-square site
distance (in units of the cube root of the volume per atom) and 4 % in strain, other structures by at least 0.08.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from engine.materials.identity import isometry_invariants

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Structure

    from engine.materials.crystal import Material

MAX_VOLUME_RATIO = 1.10
"""Functionals differ by a few percent in volume; more is another phase or another pressure."""
MAX_SITE_DISTANCE = 0.06
"""Root mean square, in units of the cube root of the volume per atom."""
MAX_LENGTH_STRAIN = 0.05
MAX_ANGLE = 3.0
"""Degrees."""
MAX_INVARIANTS = np.array([np.log(MAX_VOLUME_RATIO), 1.0, 2.5])
"""Isometry invariants of copies differ by less: by .65 and 1.7 at most in 560 crystals moved to the limits above."""


def same_crystal(a: Material, b: Material) -> bool:
    """Tell whether two materials are one crystal; polymorphs, and other orderings of one lattice, are not."""
    if a.bucket != b.bucket:
        return False
    if a.content_hash == b.content_hash:
        return True
    volumes = sorted((a.crystal.volume, b.crystal.volume))
    if volumes[1] > MAX_VOLUME_RATIO * volumes[0]:
        return False
    return bool(_matcher().fit(_reduced(a), _reduced(b), skip_structure_reduction=True))


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
    buckets = {bucket: _Bucket(materials) for bucket, materials in known.items()}
    pairs: list[tuple[Material, Material | None]] = []
    for material in new:
        bucket = buckets.setdefault(material.bucket, _Bucket([]))
        pairs.append((material, bucket.place(material)))
    return pairs


class _Bucket:
    """Different crystals of one formula, space group and number of sites."""

    def __init__(self, materials: Sequence[Material]):
        self._materials = list(materials)
        self._by_hash = {m.content_hash: m for m in reversed(self._materials)}
        self._invariants: list[NDArray[np.float64]] = []

    def place(self, material: Material) -> Material | None:
        """Give the material that this one is a copy of, or take it in; equal hashes first, they cost nothing."""
        original = self._by_hash.get(material.content_hash) or self._near(material)
        if original is None:
            self._materials.append(material)
            self._by_hash[material.content_hash] = material
        return original

    def _near(self, material: Material) -> Material | None:
        """Match only what invariants do not tell apart, which saves nine in ten of the matches in large buckets."""
        if not self._materials:
            return None
        self._invariants += [isometry_invariants(m.crystal) for m in self._materials[len(self._invariants) :]]
        apart = np.abs(np.array(self._invariants) - isometry_invariants(material.crystal))
        close = np.flatnonzero((apart <= MAX_INVARIANTS).all(axis=1))
        return next((m for m in (self._materials[i] for i in close) if same_crystal(material, m)), None)


@lru_cache(maxsize=1024)
def _reduced(material: Material) -> Structure:
    """Reduce once: the matcher's own cache compares structures site by site, which takes longer than matching."""
    return material.crystal.to_structure().get_reduced_structure()


@cache
def _matcher() -> StructureMatcher:
    from pymatgen.analysis.structure_matcher import StructureMatcher

    return StructureMatcher(
        ltol=MAX_LENGTH_STRAIN, stol=MAX_SITE_DISTANCE, angle_tol=MAX_ANGLE, primitive_cell=False, scale=True
    )
