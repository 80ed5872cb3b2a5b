"""What all strategies of a backtest share: a labelled pool, initial labels, batches, rounds and seeds."""

from __future__ import annotations

import builtins
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from campaigns.backtest.levels import Cost, Level, LevelLabels, read_levels, read_wanted
from campaigns.exceptions import CampaignError
from campaigns.goals import Scale, flaw
from engine.materials.crystal import Material
from engine.metrics.splits import split_materials

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.metrics.splits import Split, SplitSettings


@dataclass(frozen=True)
class Protocol:
    """What all strategies of a backtest share."""

    files: tuple[str, ...]
    property: str
    goal: Literal["min", "max"]
    initial: int
    batch: int
    rounds: int
    seeds: tuple[int, ...]
    scale: Literal["log10", "linear"]
    start: str | tuple[str, ...] = "megnet-multiproperty"
    """Backbones or trained model that every strategy starts from; peers use the same embedding."""
    members: int = 5
    initial_ids: Mapping[str, Sequence[str]] | None = None
    """Initial ids by seed, instead of those drawn by ``numpy.random.default_rng(seed)``."""
    cold_start: bool = False
    """Whether strategies of this program choose their initial materials; peers always begin with those drawn."""
    cost: str | None = None
    """Field of the records' properties with the cost of their label, e.g. in core-hours."""
    split: SplitSettings | None = None
    """Initial labels are drawn from the training side of this split alone; candidates, and the best ones that are to be
    found, are its test side. The rest of the training side takes no part."""
    levels: tuple[Level, ...] = ()
    """Lower fidelities whose labels can be acquired too, from the cheapest; rounds then have a budget of core-hours."""
    label_cost: Cost | None = None
    """Cost of a label of the wanted property, with :attr:`levels`."""

    @builtins.property  # the field above hides the name
    def start_name(self) -> str:
        """Name of the starting model."""
        return " + ".join(Path(name).name for name in ([self.start] if isinstance(self.start, str) else self.start))


@dataclass(frozen=True, eq=False)
class LabelledPool:
    """N materials with the answers that strategies acquire."""

    materials: Sequence[Material]
    values: NDArray[np.float64]
    """N values of the property, in its unit."""
    learned: NDArray[np.float64]
    """The same on the scale of the model, log10 or linear."""
    costs: NDArray[np.float64] | None = None
    """Of a label each, where known."""
    split: Split | None = None
    """Rows that initial labels come from and rows that may be chosen; without it both are all rows."""
    levels: tuple[LevelLabels, ...] = ()
    """Labels of the lower fidelities, from the cheapest."""

    def __len__(self) -> int:
        """Number of materials."""
        return len(self.materials)

    @cached_property
    def ids(self) -> list[str]:
        """Ids in file order."""
        return [m.id for m in self.materials]

    @cached_property
    def position(self) -> dict[str, int]:
        """Row by id."""
        return {id_: row for row, id_ in enumerate(self.ids)}

    @property
    def initial_side(self) -> list[str]:
        """Ids that initial labels are drawn from, in file order."""
        return self.ids if self.split is None else [self.ids[row] for row in self.split.training]

    @property
    def n_candidates(self) -> int:
        """Number of rows of which the best are to be found."""
        return len(self) if self.split is None else len(self.split.test)

    def of_run(self, initial: Sequence[str]) -> LabelledPool:
        """What a run with these initial ids knows: with a split they and the test side, in file order, else all."""
        if self.split is None:
            return self
        labelled = {self.position[id_] for id_ in initial}
        rows = np.array(sorted({*labelled, *self.split.test.tolist()}))
        is_initial = np.isin(rows, sorted(labelled))
        return LabelledPool(
            [self.materials[row] for row in rows],
            self.values[rows],
            self.learned[rows],
            None if self.costs is None else self.costs[rows],
            replace(self.split, training=np.flatnonzero(is_initial), test=np.flatnonzero(~is_initial)),
        )

    def of_level(self, level: LevelLabels) -> LabelledPool:
        """Materials that have a value at a lower fidelity, with these values as the answers."""
        rows = level.known
        values = level.values[rows]
        return LabelledPool([self.materials[row] for row in rows], values, values)

    @cached_property
    def sha256(self) -> str:
        """Of ids, structures and answers, in order."""
        digest = hashlib.sha256()
        costs = [None] * len(self) if self.costs is None else self.costs.tolist()
        for material, value, cost in zip(self.materials, self.values.tolist(), costs, strict=True):
            digest.update(json.dumps([material.id, material.content_hash, value, cost]).encode())
        for level in self.levels:
            digest.update(json.dumps([level.name, level.values.tolist(), level.hours.tolist()]).encode())
        return digest.hexdigest()


def read_pool(protocol: Protocol) -> LabelledPool:
    """Read the records that have the property, in file order; all must be usable, since initial sets refer to rows.

    Raises
    ------
    CampaignError
        If there are none, one cannot be used or has no cost where costs are needed, or an id occurs twice.
    """
    from engine.materials.checks import Rejection
    from engine.materials.loading import load

    outcomes = [outcome for part in load(protocol.files) for outcome in part]
    refused = [f"{o.source} ({o.message})" for o in outcomes if isinstance(o, Rejection)]
    materials = [o for o in outcomes if isinstance(o, Material)]
    found = [m for m in materials if protocol.property in m.properties]
    if not materials:
        why = f": {refused[0]}" if refused else ""
        raise CampaignError(
            f"no crystals in {', '.join(protocol.files)}{why}; give files of crystals with their labels"
        )
    if not found:
        fields = sorted({name for m in materials for name in m.properties})
        raise CampaignError(
            f"no record has the property {protocol.property!r} (there are: {', '.join(fields) or 'none'}); "
            "check --property"
        )
    refused += _flaws(found, protocol.property, protocol.scale)
    if protocol.cost:
        refused += _flaws(found, protocol.cost, "log10")  # costs must be above zero, too
    if refused:
        raise CampaignError(
            f"{len(refused)} of {len(outcomes)} records cannot be used, the first {refused[0]}; a backtest needs the "
            "whole pool, so that initial sets are the same for other programs: leave these records out of the file"
        )
    twice = [id_ for id_, count in Counter(m.id for m in found).items() if count > 1]
    if twice:
        raise CampaignError(f"the id {twice[0]!r} occurs twice in the pool; ids must be unique")
    values = _column(found, protocol.property)
    costs = _column(found, protocol.cost) if protocol.cost else None
    levels: tuple[LevelLabels, ...] = ()
    if protocol.label_cost is not None:
        wanted = read_wanted(protocol.property, protocol.label_cost, found, protocol.scale)
        levels, costs = read_levels(protocol.levels, wanted, found, protocol.scale, protocol.members), wanted.hours
    split = None if protocol.split is None else split_materials(protocol.split, found, values)
    return LabelledPool(found, values, Scale(protocol.scale).learned(values), costs, split, levels)


def check_size(protocol: Protocol, size: int, initial: int | None = None) -> None:
    """Refuse to ask for more labels than ``size``; with a split of ``initial`` rows on its training side, on each side.

    Raises
    ------
    CampaignError
        If more are asked for.
    """
    if initial is not None:
        asked = protocol.batch * protocol.rounds
        if protocol.initial > initial or asked > size:
            raise CampaignError(
                f"{protocol.initial} initial labels and {protocol.rounds} x {protocol.batch} = {asked} more are asked "
                f"for, the split has {initial} rows on its training side and {size} on its test side; lower --initial, "
                "--batch or --rounds"
            )
        return
    asked = protocol.initial + protocol.batch * protocol.rounds
    if asked > size:
        raise CampaignError(
            f"{protocol.initial} + {protocol.rounds} x {protocol.batch} = {asked} labels to query, the pool has "
            f"{size}; lower --initial, --batch or --rounds"
        )


def initial_ids(protocol: Protocol, ids: Sequence[str], seed: int) -> list[str]:
    """Ids labelled before the first round: given, or drawn over ``ids``, which are in file order."""
    if protocol.initial_ids is not None:
        given = protocol.initial_ids.get(str(seed))
        if given is None:
            raise CampaignError(f"the file of initial ids has no entry for seed {seed}; it needs one list a seed")
        absent = sorted(set(given) - set(ids))
        if absent:
            raise CampaignError(
                f"initial ids of seed {seed}: {len(absent)} are not in the pool"
                f"{' on the training side of the split' if protocol.split else ''}, the first {absent[0]!r}; correct "
                "them"
            )
        if len(set(given)) != protocol.initial:
            raise CampaignError(
                f"initial ids of seed {seed}: {len(set(given))} different ones given, --initial asks for "
                f"{protocol.initial}; make them agree"
            )
        return list(given)
    rows = np.random.default_rng(seed).choice(len(ids), protocol.initial, replace=False)
    return [ids[i] for i in rows]


def read_initial_ids(path: Path) -> dict[str, list[str]]:
    """Read the initial ids of each seed: ``{"0": ["id", ...], "1": [...]}``."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CampaignError(f"--initial-ids {path} cannot be read: {error}") from error
    lists = content.values() if isinstance(content, dict) else [None]
    if not all(isinstance(ids, list) and all(isinstance(id_, str) for id_ in ids) for ids in lists):
        raise CampaignError(f'--initial-ids {path}: give {{"0": ["id", ...], "1": [...]}}, one list of ids a seed')
    return dict(content)


def parse_seeds(text: str) -> tuple[int, ...]:
    """``0,1,2``: whole numbers from zero up."""
    seeds = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in seeds):
        raise CampaignError(f"--seeds {text!r}: give whole numbers from zero up with commas, e.g. 0,1,2")
    return tuple(dict.fromkeys(int(part) for part in seeds))


def _flaws(materials: Sequence[Material], name: str, scale: str) -> list[str]:
    values: list[tuple[str, Any]] = [(m.id, m.properties.get(name)) for m in materials]
    flaws = [(id_, flaw(value, scale) if value is not None else "is missing") for id_, value in values]
    return [f"{id_} ({name} {problem})" for id_, problem in flaws if problem]


def _column(materials: Sequence[Material], name: str) -> NDArray[np.float64]:
    return np.array([float(m.properties[name]) for m in materials])
