"""The pool of a campaign: every material of the store as rows, and which of them may be queued."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from campaigns.exceptions import CampaignError, NoCandidatesError
from db.states import QueueState
from engine.acquire.constraints import Columns, Constraint, Elements, Missing, PropertyRange, apply_constraints
from engine.materials.crystal import Crystal

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from campaigns.configuration import ConstraintsSection
    from db.records import MaterialKey
    from db.store import Store
    from engine.learning.features import Featuriser

_PENDING = (QueueState.PROPOSED, QueueState.APPROVED, QueueState.EXPORTED, QueueState.RUNNING)
_SPENT = (QueueState.DONE, QueueState.FAILED, QueueState.WITHDRAWN)


@dataclass(frozen=True, eq=False)
class Pool:
    """N materials in order of insertion, those whose elements the backbone knows."""

    rows: tuple[MaterialKey, ...]
    unknown: tuple[MaterialKey, ...]
    """Materials left out because the backbone does not know one of their elements."""

    @classmethod
    def of(cls, store: Store, elements: Collection[str], size: int | None = None) -> Pool:
        """Read the store's materials; with ``size``, only the first so many (a round keeps its pool)."""
        index = store.material_index()[:size]
        known = set(elements)
        fits = [set(key.chemical_system.split("-")) <= known for key in index]
        return cls(
            tuple(key for key, ok in zip(index, fits, strict=True) if ok),
            tuple(key for key, ok in zip(index, fits, strict=True) if not ok),
        )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def hashes(self) -> list[str]:
        """Content hashes, row by row."""
        return [key.content_hash for key in self.rows]

    @property
    def ids(self) -> list[str]:
        """Material ids, row by row."""
        return [key.material_id for key in self.rows]

    @property
    def sha256(self) -> str:
        """Hash of the pool's crystals in order."""
        return hashlib.sha256("\n".join(self.hashes).encode()).hexdigest()

    def rows_of(self, ids: Collection[str]) -> NDArray[np.int64]:
        """Rows of material ids, ascending; ids outside the pool are passed over."""
        wanted = set(ids)
        return np.array([i for i, key in enumerate(self.rows) if key.material_id in wanted], dtype=np.int64)

    def candidates(self, store: Store, constraints: ConstraintsSection, taken: Collection[str]) -> NDArray[np.int64]:
        """Rows that pass the constraints and are not ``taken`` (material ids).

        Raises
        ------
        NoCandidatesError
            If none is left, with how many each constraint removed.
        """
        if not len(self) + len(self.unknown):
            raise NoCandidatesError("the campaign holds no materials; add some with `kappascout ingest DIR FILE...`")
        selection = apply_constraints(_constraints(constraints), self._columns(store, constraints), len(self))
        free = np.ones(len(self), dtype=bool)
        free[self.rows_of(taken)] = False
        left = np.flatnonzero(selection.mask & free)
        if not len(left):
            reasons = [f"{len(self.unknown)} hold an element the backbone does not know"] if self.unknown else []
            reasons += [f"{words} removed {count}" for words, count in selection.removed]
            if used := int((selection.mask & ~free).sum()):
                reasons.append(f"{used} are labelled, or were queued before")
            total = len(self) + len(self.unknown)
            raise NoCandidatesError(
                f"none of the {total} materials can be queued: {'; '.join(reasons)}; "
                "ingest more materials or relax [constraints] in campaign.toml"
            )
        return left

    def _columns(self, store: Store, constraints: ConstraintsSection) -> Columns:
        names = list(constraints.properties)
        values = {"n_sites": np.array([key.n_sites for key in self.rows], dtype=np.float64)}
        if names:
            available = {*store.property_names(), *values}
            if unknown := [name for name in names if name not in available]:
                near = difflib.get_close_matches(unknown[0], available, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(sorted(available))}"
                raise CampaignError(f"[constraints]: no material has the property {unknown[0]!r}; {hint}")
            known = store.property_values(names)
            values |= {
                name: np.array([_number(known[name].get(id_)) for id_ in self.ids])
                for name in names
                if name not in values
            }
        return Columns(values, [key.chemical_system for key in self.rows])


def queued_ids(store: Store, fidelity: str) -> tuple[set[str], set[str]]:
    """Material ids whose label is awaited, and those that are not to be proposed again."""
    entries = [e for e in store.queue() if e.fidelity == fidelity]
    pending = {e.material_id for e in entries if e.state in _PENDING}
    spent = {e.material_id for e in entries if e.state in _SPENT}
    return pending, spent


def embed_pool(store: Store, featuriser: Featuriser, pool: Pool) -> Iterator[int]:
    """Make what embeddings are missing, chunk by chunk; yields how many crystals are done."""
    missing = set(featuriser.missing(pool.hashes))
    todo = [key.material_id for key in pool.rows if key.content_hash in missing]
    done = len(pool) - len(todo)
    yield done
    chunk: dict[str, Crystal] = {}
    for content_hash, structure in store.structures(todo):
        chunk[content_hash] = Crystal.from_dict(structure)
        if len(chunk) == 1024:
            featuriser.add(chunk)
            done += len(chunk)
            chunk = {}
            yield done
    featuriser.add(chunk)
    yield done + len(chunk)


def _constraints(section: ConstraintsSection) -> list[Constraint]:
    found: list[Constraint] = [
        PropertyRange(name, limits.min, limits.max, Missing(section.missing))
        for name, limits in section.properties.items()
    ]
    if section.exclude_elements or section.only_elements:
        found.append(Elements(exclude=frozenset(section.exclude_elements), only=frozenset(section.only_elements)))
    if section.max_sites is not None:
        found.append(PropertyRange("n_sites", maximum=section.max_sites))
    return found


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else np.nan
