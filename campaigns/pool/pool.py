"""The pool of a campaign: every material of the store as rows, and which of them may be queued."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from string import ascii_uppercase
from typing import TYPE_CHECKING, Literal

import numpy as np

from campaigns.exceptions import CampaignError, NoCandidatesError
from campaigns.pool.columns import BLOCK_ROWS, MaterialColumns
from campaigns.stability.names import CALCULATED
from db.states import QueueState
from engine.acquire.constraints import Columns, Constraint, Elements, Missing, PropertyRange, apply_constraints
from engine.execution import ExecutionSettings, executor
from engine.learning.features.featuriser import chunks, embed
from engine.materials.crystal import Crystal
from engine.materials.dimensionality import dimensionality

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from campaigns.configuration import ConstraintsSection
    from db.store import Store
    from engine.learning.backbones.stack import AnyFeaturiser

DIMENSIONALITY = "dimensionality"
"""Property that is computed when it is first needed, and stored."""
BLOCK = 1024
"""Most crystals of a block of embeddings."""
WORTH_WORKERS = 10_000
"""Fewer missing embeddings are made in this process: loading MatGL in others would take longer."""
WORTH_POTENTIALS = 4
"""Blocks of a potential as a backbone, whose embeddings take long, from which workers start it too."""
_BLOCK_SITES = 16_384
"""Sites at which a block is complete."""
_HERE = ExecutionSettings(workers=1)
_ELEMENT = re.compile(r"([A-Z][a-z]?)(\d*)")
_GROUP = re.compile(r"\(([^)]*)\)(\d*)")
_PENDING = (QueueState.PROPOSED, QueueState.APPROVED, QueueState.EXPORTED, QueueState.RUNNING)
_SPENT = (QueueState.DONE, QueueState.FAILED, QueueState.WITHDRAWN)  # not deferred ones: candidates of the next round


@dataclass(frozen=True, eq=False)
class Pool:
    """N materials in order of insertion, those whose elements the backbone knows."""

    rows: MaterialColumns
    unknown: MaterialColumns
    """Materials left out because the backbone does not know one of their elements."""

    @classmethod
    def of(cls, store: Store, elements: Collection[str], size: int | None = None) -> Pool:
        """Read the store's materials; with ``size``, only the first so many (the pool of a round is fixed)."""
        index = MaterialColumns.of(store.material_columns(size))
        known = set(elements)
        systems, of_row = index.distinct("chemical_system")
        fits = np.array([set(system.split("-")) <= known for system in systems], dtype=bool)[of_row]
        if fits.all():
            return cls(index, index[:0])
        return cls(index.take(np.flatnonzero(fits)), index.take(np.flatnonzero(~fits)))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def hashes(self) -> list[str]:
        """Content hashes, row by row."""
        return self.rows.texts("content_hash")

    @property
    def ids(self) -> list[str]:
        """Material ids, row by row."""
        return self.rows.texts("material_id")

    @property
    def sha256(self) -> str:
        """Hash of the pool's crystals in order."""
        digest = hashlib.sha256()
        for start in range(0, len(self), BLOCK_ROWS):
            text = "\n".join(self.rows[start : start + BLOCK_ROWS].texts("content_hash"))
            digest.update((text if start == 0 else f"\n{text}").encode())
        return digest.hexdigest()

    def rows_of(self, ids: Collection[str]) -> NDArray[np.int64]:
        """Rows of material ids, ascending; ids outside the pool are skipped."""
        return self.rows.find("material_id", ids)

    def families(self, kind: Literal["prototype", "chemical_system"]) -> NDArray[np.str_]:
        """Family of each row: its chemical system, or space group, sites and formula without names (``AB2``)."""
        if kind == "chemical_system":
            systems, of_row = self.rows.distinct("chemical_system")
            return np.array(systems, dtype=np.str_)[of_row]
        formulas, of_row = self.rows.distinct("formula")
        anonymous = [_anonymous(formula) for formula in formulas]
        groups, sites = self.rows.numbers("spacegroup").tolist(), self.rows.numbers("n_sites").tolist()
        return np.array(
            [
                f"{anonymous[k]}, space group {group}, {n} sites"
                for k, group, n in zip(of_row.tolist(), groups, sites, strict=True)
            ],
            dtype=np.str_,
        )

    def known(self, store: Store, names: Collection[str], where: str) -> dict[str, NDArray[np.float64]]:
        """Known properties row by row, NaN where one is missing; ``where`` names the section that uses them."""
        sites = self.rows.numbers("n_sites").astype(np.float64)
        stored = [name for name in names if name != "n_sites"]
        if not stored:
            return {"n_sites": sites}
        available = {*store.property_names(), "n_sites"}
        if unknown := [name for name in stored if name not in available]:
            near = difflib.get_close_matches(unknown[0], available, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(sorted(available))}"
            if unknown[0] in CALCULATED:
                hint = f"`kappascout relax DIR --potential P{CALCULATED[unknown[0]]}` calculates it"
            raise CampaignError(f"{where}: no material has the property {unknown[0]!r}; {hint}")
        return {"n_sites": sites} | {
            name: np.array([_number(found.get(id_)) for id_ in self.ids], dtype=np.float64)
            for name, found in store.property_values(stored).items()
        }

    def candidates(
        self,
        store: Store,
        constraints: ConstraintsSection,
        taken: Collection[str],
        needed: Collection[str] = (),
    ) -> NDArray[np.int64]:
        """Rows that pass the constraints, have the ``needed`` properties and are not ``taken`` (material ids).

        Raises
        ------
        NoCandidatesError
            If none is left, with the number that each constraint removed.
        """
        if not len(self) + len(self.unknown):
            raise NoCandidatesError("the campaign holds no materials; add some with `kappascout ingest DIR FILE...`")
        by_element = constraints.exclude_elements or constraints.only_elements
        columns = Columns(
            self.known(store, constraints.properties, "[constraints]"),
            self.rows.texts("chemical_system") if by_element else (),
        )
        selection = apply_constraints(_constraints(constraints), columns, len(self))
        free = np.ones(len(self), dtype=bool)
        free[self.rows_of(taken)] = False
        values = self.known(store, needed, "[[objectives]]")
        lacking = {name: selection.mask & np.isnan(values[name]) for name in needed}
        allowed = selection.mask & ~np.logical_or.reduce([*lacking.values(), np.zeros(len(self), dtype=bool)])
        left = np.flatnonzero(allowed & free)
        passed = left
        if constraints.dimensionality:
            left = left[np.isin(dimensions_of(store, self, left), constraints.dimensionality)]
        if not len(left):
            reasons = [f"{len(self.unknown)} hold an element the backbone does not know"] if self.unknown else []
            reasons += [f"{words} removed {count}" for words, count in selection.removed]
            reasons += [f"{rows.sum()} lack {name}, an objective" for name, rows in lacking.items() if rows.any()]
            if len(passed):
                wanted = " or ".join(map(str, constraints.dimensionality))
                reasons.append(f"bonds of {len(passed)} do not reach in {wanted} dimensions")
            if used := int((allowed & ~free).sum()):
                reasons.append(f"{used} are labelled, or were queued before")
            total = len(self) + len(self.unknown)
            raise NoCandidatesError(
                f"none of the {total} materials can be queued: {'; '.join(reasons)}; "
                "ingest more materials or relax [constraints] in campaign.toml"
            )
        return left


def queued_ids(store: Store, fidelity: str) -> tuple[set[str], set[str]]:
    """Material ids with a pending label, and those that are not to be proposed again.

    A material whose label has been withdrawn may be proposed again, although its entry stays done; one whose entry was
    deferred is a candidate again. One that failed is not: its entry is retried or reopened instead.
    """
    reopened = {label.material_id for label in store.withdrawn_labels() if label.fidelity == fidelity}
    entries = [e for e in store.queue() if e.fidelity == fidelity]
    pending = {e.material_id for e in entries if e.state in _PENDING}
    spent = {
        e.material_id
        for e in entries
        if e.state in _SPENT and not (e.state is QueueState.DONE and e.material_id in reopened)
    }
    return pending, spent


def embed_pool(
    store: Store,
    featuriser: AnyFeaturiser,
    pool: Pool,
    execution: ExecutionSettings | None = None,
    rows: NDArray[np.bool_] | None = None,
) -> Iterator[int]:
    """Compute missing embeddings, block by block; yields the number of crystals done.

    Blocks are bounded, stored when finished, and cut by the pool alone, so that the numbers do not depend on who
    computes a block or on interruptions. Few crystals are embedded in this
    process, many by the workers of ``execution``. Without ``rows`` (a mask) all are embedded.
    """
    wanted = np.ones(len(pool), dtype=bool) if rows is None else rows
    for part in featuriser.parts:
        missing = np.flatnonzero(wanted & ~part.embedded(pool.hashes))
        done = int(wanted.sum()) - len(missing)
        yield done
        backbone = part.backbone
        few = WORTH_WORKERS if backbone.trained else WORTH_POTENTIALS * backbone.block
        blocks = (
            {key: crystals[key] for key in keys}
            for crystals in crystals_of(store, pool, missing)
            for keys in chunks(list(crystals), backbone.block)
        )
        with executor(execution if execution and len(missing) >= few else _HERE) as run:
            for made in run.map_unordered(embed, blocks, backbone, part.keep_graphs):
                part.keep(made)
                done += len(made.keys)
                yield done
        lacking = np.flatnonzero(wanted & ~part.complete(pool.hashes))  # graphs, where they were not stored before
        for crystals in crystals_of(store, pool, lacking):
            part.add(crystals)


def crystals_of(store: Store, pool: Pool, rows: NDArray[np.int64]) -> Iterator[dict[str, Crystal]]:
    """Crystals of these rows by content hash, those of one part of the pool together; read when needed."""
    if not len(rows):
        return
    sites = np.cumsum(pool.rows.numbers("n_sites"))
    part = np.stack([np.arange(len(pool)) // BLOCK, sites // _BLOCK_SITES])[:, rows]
    sizes = np.diff([0, *(np.flatnonzero(np.diff(part).any(axis=0)) + 1), len(rows)])
    structures = store.structures(pool.rows.take(rows).texts("material_id"))
    for size in sizes.tolist():
        yield {key: Crystal.from_dict(structure) for key, structure in islice(structures, size)}


def dimensions_of(store: Store, pool: Pool, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Dimensions that bonds extend in, row by row: from the store, or computed (0.3 ms a crystal) and stored there."""
    known = store.property_values([DIMENSIONALITY])[DIMENSIONALITY]
    ids = pool.rows.take(rows).texts("material_id")
    found = np.array([_number(known.get(id_)) for id_ in ids], dtype=np.float64)
    missing = [id_ for id_, value in zip(ids, found.tolist(), strict=True) if np.isnan(value)]
    structures = (structure for _, structure in store.structures(missing))
    new = {id_: dimensionality(Crystal.from_dict(s)) for id_, s in zip(missing, structures, strict=True)}
    store.add_property(DIMENSIONALITY, new)
    found[np.isnan(found)] = list(new.values())
    return found


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


def _anonymous(formula: str) -> str:
    """Anonymous reduced formula, the rarest element first: ``Mg2Si`` is ``AB2``."""
    flat = _GROUP.sub(lambda group: group[1] * int(group[2] or 1), formula)
    counts = Counter[str]()
    for element, count in _ELEMENT.findall(flat):
        counts[element] += int(count or 1)
    letters = zip(ascii_uppercase, sorted(counts.values()), strict=False)
    return "".join(f"{letter}{count if count > 1 else ''}" for letter, count in letters)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else np.nan
