"""Expected core-hours of calculations, counted and priced by one rule from the ranking to the export.

The displaced supercells of a crystal are counted exactly before it is queued, and the counts are stored. Core-hours of
a supercell are learned from the campaign's finished calculations; until one is finished, ``[dft] core_hours`` states
them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from campaigns.pool.exported_work import exported_workloads
from campaigns.pool.labels import training_labels
from campaigns.property_names import Property
from engine.materials.crystal import Crystal
from engine.physics.cost import (
    CORE_HOURS,
    VALENCE,
    CostModel,
    SupercellSettings,
    Workload,
    WorkloadCounter,
    estimate_workload,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from campaigns.configuration import Configuration, DftSection
    from campaigns.workspace import Workspace
    from db.records import Json, LabelRecord, MaterialKey
    from db.store import Store

_CRYSTALS = 4096
"""Number of crystals in memory at once."""
_PRICING = {
    "min_length", "fc2_min_length", "displacements", "pair_cutoff", "max_supercells", "max_atoms", "max_core_hours",
    "core_hours",
}  # fmt: skip
WORKLOADS = "workloads.jsonl"
"""File of counts in a campaign's ``artifacts``."""


@dataclass(frozen=True)
class Price:
    """Size of a calculation and its expected core-hours."""

    supercells: int
    """Number of displaced supercells, those for second order alone included."""
    atoms: int
    """Atoms of the largest of them."""
    core_hours: float | None
    """None where no cost is known in core-hours."""
    exact: bool
    """Whether the supercells were counted rather than estimated."""


@dataclass(frozen=True)
class SizeLimits:
    """Largest calculation that is queued and exported: the limits of ``[dft]``."""

    supercells: int
    atoms: int
    core_hours: float | None = None

    @classmethod
    def of(cls, dft: DftSection) -> SizeLimits:
        """Limits of the settings."""
        return cls(dft.max_supercells, dft.max_atoms, dft.max_core_hours)

    def exceeded(self, price: Price) -> str:
        """Why a calculation is too large, and what helps; empty if it is not."""
        cost = "" if price.core_hours is None else f", about {price.core_hours:,.0f} core-hours"
        about = "" if price.exact else "about "
        if price.atoms > self.atoms:
            return (
                f"its supercell has {price.atoms:,} atoms, above [dft] max_atoms = {self.atoms} ({about}"
                f"{price.supercells:,} displaced supercells{cost}); raise it, or lower min_length"
            )
        if price.supercells > self.supercells:
            return (
                f"it takes {about}{price.supercells:,} displaced supercells of up to {price.atoms} atoms{cost}, above "
                f"[dft] max_supercells = {self.supercells:,}; raise the limit (or --max-supercells), or use "
                "displacements = 'random', a pair_cutoff or a shorter min_length"
            )
        if self.core_hours is not None and price.core_hours is not None and price.core_hours > self.core_hours:
            return (
                f"it takes about {price.core_hours:,.0f} core-hours ({about}{price.supercells:,} displaced supercells "
                f"of up to {price.atoms} atoms), above [dft] max_core_hours = {self.core_hours:,.6g}; raise the limit, "
                "or use displacements = 'random', a pair_cutoff or a shorter min_length"
            )
        return ""

    def excess(self, workload: Workload, core_hours: NDArray[np.float64]) -> NDArray[np.float64]:
        """Largest ratio of N calculations to the limits: above 1 a calculation is too large."""
        ratios = [workload.supercells / self.supercells, workload.most_atoms / self.atoms]
        if self.core_hours is not None:
            ratios.append(core_hours / self.core_hours)
        return np.max(np.broadcast_arrays(*ratios), axis=0)

    def __str__(self) -> str:
        """The limits, as settings."""
        hours = "" if self.core_hours is None else f", max_core_hours = {self.core_hours:,.6g}"
        return f"[dft] max_supercells = {self.supercells:,}, max_atoms = {self.atoms}{hours}"


class Costs:
    """Expected core-hours of calculations: fixed, or learned from the labels that have a cost.

    Parameters
    ----------
    store
        Store of the crystals.
    configuration
        Settings of the supercells, and core-hours of any calculation where ``[costs]`` gives them.
    folder
        Folder with counts of displaced supercells.
    finished
        Labels by material id; those without a cost are skipped.
    say
        Receives a note when counts have to be estimated.
    dft
        Settings of the calculations where they are those of ``queue export``; None for other labelers.
    """

    def __init__(
        self,
        store: Store,
        configuration: Configuration,
        folder: Path,
        finished: Mapping[str, LabelRecord],
        say: Callable[[str], None],
        dft: DftSection | None,
    ):
        self._store = store
        self._fixed = configuration.costs.get(configuration.campaign.fidelity)
        self.limits = None if dft is None else SizeLimits.of(dft)
        """Limits of what is queued; None where the labeler has none."""
        self._settings = _settings(configuration) if dft is None else supercell_settings(dft)
        self._counter = WorkloadCounter(folder / WORKLOADS, self._settings, dft.max_atoms if dft else None)
        self._say = say
        self._uncounted: dict[str, str] = {}
        self._noted = 0
        cost = {id_: float(label.cost) for id_, label in finished.items() if label.cost and self._fixed is None}
        keys = {key.material_id: key for key in store.material_index() if key.material_id in cost} if cost else {}
        present = self._count([keys[id_] for id_ in cost])
        own = {id_: finished[id_] for id_ in cost} if dft else {}
        done = present | exported_workloads(folder, own, {keys[id_]: workload for id_, workload in present.items()})
        rough = {id_: _first(self._estimate([keys[id_]])) for id_ in cost}
        stated = None if dft is None else dft.core_hours
        self.model = CostModel.fit([(done[id_], hours) for id_, hours in cost.items()], stated)
        # what another size than the present one took, in calculations of the present size
        as_now = {
            id_: float(self.model.predict(present[id_]) / self.model.predict(done[id_]))
            for id_ in cost
            if done[id_] != present[id_]
        }
        # fitted on estimates as well, so that their mean error cancels
        costs = {id_: hours * as_now[id_] if id_ in as_now else hours for id_, hours in cost.items()}
        self._rough_model = CostModel.fit([(rough[id_], hours) for id_, hours in costs.items()], stated)

    @classmethod
    def now(cls, workspace: Workspace, say: Callable[[str], None], exported: bool = False) -> Costs:
        """Costs from the settings and the training labels of this moment.

        ``exported``: of calculations that ``queue export`` writes, whatever the labeler is.
        """
        configuration, store = workspace.configuration, workspace.store
        found = training_labels(store, configuration)
        # in the order of the pool, so that a fit does not depend on the order of arrival
        finished = {
            key.material_id: found[key.material_id] for key in store.material_index() if key.material_id in found
        }
        dft = configuration.dft if exported or is_priced_by_dft(configuration) else None
        return cls(store, configuration, workspace.artifacts, finished, say, dft)

    @property
    def in_core_hours(self) -> bool:
        """Whether costs are known in core-hours."""
        return self._fixed is not None or self.model.unit == CORE_HOURS

    def __str__(self) -> str:
        """Basis of the costs, as text."""
        return str(self.model) if self._fixed is None else f"every calculation takes {self._fixed:g} core-hours"

    def workload(self, content_hash: str, crystal: Crystal) -> Workload:
        """Displaced supercells of a crystal: as stored, or counted."""
        return self._counter({content_hash: crystal})[content_hash]

    def priced(self, workload: Workload) -> Price:
        """Price of a calculation."""
        cost = self._fixed
        if cost is None and self.in_core_hours:
            cost = float(self.model.predict(workload))
        return Price(int(workload.supercells), int(workload.most_atoms), cost, workload.exact)

    def prices(self, keys: Sequence[MaterialKey]) -> list[Price]:
        """Prices of a few crystals; a note names those whose supercells can only be estimated."""
        workloads = self._count(keys)
        self._note_uncounted()
        return [self.priced(workloads[key.material_id]) for key in keys]

    def too_large(self, keys: Sequence[MaterialKey]) -> list[bool]:
        """Which of a few crystals exceed the limits by their exact count; none where there are no limits."""
        if self.limits is None:
            return [False] * len(keys)
        prices = zip(keys, self.prices(keys), strict=True)
        return [key.material_id not in self._uncounted and bool(self.limits.exceeded(price)) for key, price in prices]

    def known_too_large(self, content_hashes: Sequence[str]) -> list[bool]:
        """Which of many crystals exceed the limits by a count that is stored; nothing is counted."""
        if self.limits is None:
            return [False] * len(content_hashes)
        known = (self._counter.known(key) for key in content_hashes)
        return [workload is not None and bool(self.limits.exceeded(self.priced(workload))) for workload in known]

    def estimated_excess(self, keys: Sequence[MaterialKey]) -> NDArray[np.float64]:
        """Ratio of N crystals to the limits, their displaced supercells estimated; above 1 is too large."""
        assert self.limits is not None
        limits, found = self.limits, []
        for part in self._parts(keys):
            workload = self._estimate(part)
            hours = self._rough_model.predict(workload) if self._fixed is None else np.full(len(part), self._fixed)
            found.append(limits.excess(workload, hours))
        return np.concatenate(found)

    def counted(self, keys: Sequence[MaterialKey]) -> list[float]:
        """Cost of a few crystals, their displaced supercells counted; in the model's unit."""
        if self._fixed is not None:
            return [self._fixed] * len(keys)
        workloads = self._count(keys)
        self._note_uncounted()
        return [float(self.model.predict(workloads[key.material_id])) for key in keys]

    def estimated(self, keys: Sequence[MaterialKey]) -> NDArray[np.float64]:
        """Cost of N crystals in the model's unit, their displaced supercells estimated."""
        if self._fixed is not None:
            return np.full(len(keys), self._fixed)
        return np.concatenate([self._rough_model.predict(self._estimate(part)) for part in self._parts(keys)])

    def _note_uncounted(self) -> None:
        if len(self._uncounted) > self._noted:
            self._noted = len(self._uncounted)
            shown = ", ".join(f"{id_} ({reason})" for id_, reason in list(self._uncounted.items())[:3])
            more = ", ..." if len(self._uncounted) > 3 else ""
            limits = ", and limits do not leave them out" if self.limits else ""
            self._say(
                f"force calls of {len(self._uncounted)} crystals are estimated, not counted{limits}: {shown}{more}"
            )

    def _count(self, keys: Sequence[MaterialKey]) -> dict[str, Workload]:
        """Workload by material id, counted if it can be."""
        crystals = dict(zip((key.material_id for key in keys), self._crystals(keys), strict=True))
        found = {}
        for key in keys:
            try:
                found[key.material_id] = self._counter({key.content_hash: crystals[key.material_id]})[key.content_hash]
            except ModuleNotFoundError:
                self._uncounted[key.material_id] = "phono3py is missing: pip install kappascout[phonons]"
            except Exception as error:  # spglib, phonopy and symfc raise many kinds; the next crystal may be counted
                self._uncounted[key.material_id] = " ".join(str(error).split())
            if key.material_id not in found:
                found[key.material_id] = _first(self._estimate([key]))
        return found

    def _estimate(self, keys: Sequence[MaterialKey]) -> Workload:
        """Estimate of N crystals together."""
        volume, electrons = np.empty((2, len(keys)))
        for row, crystal in enumerate(self._crystals(keys)):
            volume[row] = abs(np.linalg.det(crystal.lattice)) / len(crystal)
            electrons[row] = VALENCE[crystal.numbers].mean()
        sites, groups = [key.n_sites for key in keys], [key.spacegroup for key in keys]
        return estimate_workload(sites, groups, volume, electrons, self._settings)

    def _parts(self, keys: Sequence[MaterialKey]) -> Iterable[Sequence[MaterialKey]]:
        return (keys[start : start + _CRYSTALS] for start in range(0, len(keys), _CRYSTALS))

    def _crystals(self, keys: Sequence[MaterialKey]) -> Iterable[Crystal]:
        for _, structure in self._store.structures([key.material_id for key in keys]):
            yield Crystal.from_dict(structure)


def is_priced_by_dft(configuration: Configuration) -> bool:
    """Whether what is queued is calculated as ``[dft]`` says: elsewhere, and a lattice thermal conductivity."""
    section = configuration.campaign
    elsewhere = configuration.labeler.kind == "dft" and section.fidelity != "experiment"
    return elsewhere and Property(section.property).is_conductivity


def pricing_settings(configuration: Configuration) -> Json | None:
    """Settings of ``[dft]`` that determine sizes and prices of what is queued; None for other labelers."""
    return configuration.dft.model_dump(mode="json", include=_PRICING) if is_priced_by_dft(configuration) else None


def supercell_settings(dft: DftSection) -> SupercellSettings:
    """Which supercells a calculation by ``[dft]`` takes."""
    return SupercellSettings(dft.min_length, dft.pair_cutoff, dft.displacements, dft.fc2_min_length)


def _settings(configuration: Configuration) -> SupercellSettings:
    """Which supercells are counted for other labelers, from their settings: every displacement."""
    if configuration.labeler.kind == "phonons":
        from engine.physics.phonon_settings import PhononSettings

        settings = PhononSettings(**configuration.labeler.settings)
        return SupercellSettings(settings.min_length, settings.pair_cutoff)
    return SupercellSettings(configuration.dft.min_length, configuration.dft.pair_cutoff)


def _first(workload: Workload) -> Workload:
    """Numbers of a workload of one crystal, as columns."""
    parts = (workload.calls, workload.atoms, workload.electrons, workload.fc2_calls, workload.fc2_atoms)
    calls, atoms, electrons, fc2_calls, fc2_atoms = (float(np.ravel(part)[0]) for part in parts)
    return Workload(calls, atoms, electrons, workload.exact, fc2_calls, fc2_atoms)
