"""One compound that is in the pool twice, relaxed with two functionals: a batch holds one of them.

Searched only in the buckets of materials that are chosen or pending, so that it costs nothing where there are
none. Each has its own labels, since strain changes the conductivity.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from engine.materials.crystal import Crystal, Material, isotopes_of
from engine.materials.duplicates import same_compound

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from campaigns.pool.pool import Pool
    from db.records import MaterialKey
    from db.store import Store


class Relatives:
    """Rows of the pool that are the same compound as a row, other relaxation; called with a row."""

    def __init__(self, store: Store, pool: Pool):
        self._store, self._pool = store, pool
        _, self._bucket = pool.rows.distinct("bucket")
        self._found: dict[int, NDArray[np.int64]] = {}
        self._materials: dict[int, Material] = {}

    @classmethod
    def of(cls, store: Store, pool: Pool) -> Relatives | None:
        """Relatives of a pool, or None where there can be none: no two of its materials share a bucket."""
        relatives = cls(store, pool)
        return relatives if len(pool) and np.bincount(relatives._bucket).max() > 1 else None

    def __call__(self, row: int) -> NDArray[np.int64]:
        """Rows that are the same compound, ascending."""
        if row not in self._found:
            others = np.flatnonzero(self._bucket == self._bucket[row])
            others = others[others != row]
            self._read([row, *others.tolist()] if len(others) else [])
            same = [same_compound(self._materials[row], self._materials[other]) for other in others.tolist()]
            self._found[row] = others[np.array(same, dtype=bool)]
        return self._found[row]

    def words(self, row: int, labelled: Collection[int]) -> str:
        """Which labelled materials are the same compound as a chosen row, and which others it represents."""
        parts = []
        for start, mine in (("same compound as", True), ("stands for", False)):
            ids = [self._pool.rows[r].material_id for r in self(row).tolist() if (r in labelled) is mine]
            if ids:
                parts.append(f"; {start} {', '.join(ids)}, other relaxation{', labelled' if mine else ''}")
        return "".join(parts)

    def _read(self, rows: list[int]) -> None:
        missing = [row for row in rows if row not in self._materials]
        keys = [self._pool.rows[row] for row in missing]
        structures = self._store.structures([key.material_id for key in keys])
        for row, key, (_, structure) in zip(missing, keys, structures, strict=True):
            self._materials[row] = stored_material(key, Crystal.from_dict(structure))


def stored_material(key: MaterialKey, crystal: Crystal) -> Material:
    """Material of the engine with crystal and identity alone, from that of the store."""
    return Material(key.material_id, crystal, key.content_hash, key.spacegroup, isotopes=isotopes_of(key.bucket))
