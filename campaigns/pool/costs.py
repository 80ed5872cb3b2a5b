"""Expected core-hours of calculations, learned from those of the campaign that have finished."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.exceptions import SupercellError
from engine.materials.crystal import Crystal
from engine.physics.cost import CORE_HOURS, VALENCE, CostModel, Workload, WorkloadCounter, estimate_workload

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from campaigns.configuration import Configuration
    from db.records import LabelRecord, MaterialKey
    from db.store import Store

_CRYSTALS = 4096
"""Number of crystals in memory at once."""


class Costs:
    """Expected core-hours of calculations: fixed, or learned from the labels that have a cost.

    Parameters
    ----------
    store
        Store of the crystals.
    configuration
        Settings of the supercells.
    folder
        Folder with counts of displaced supercells.
    finished
        Labels by material id; those without a cost are skipped.
    say
        Receives a note when counts have to be estimated.
    fixed
        Core-hours of any calculation, where given in the settings.
    """

    def __init__(
        self,
        store: Store,
        configuration: Configuration,
        folder: Path,
        finished: Mapping[str, LabelRecord],
        say: Callable[[str], None],
        fixed: float | None = None,
    ):
        self._store = store
        self._fixed = fixed
        self._lengths = _lengths(configuration)
        self._counter = WorkloadCounter(folder / "workloads.jsonl", *self._lengths)
        self._say = say
        self._uncounted: list[str] = []
        cost = {id_: float(label.cost) for id_, label in finished.items() if label.cost and fixed is None}
        keys = {key.material_id: key for key in store.material_index() if key.material_id in cost} if cost else {}
        workloads = self._count([keys[id_] for id_ in cost])
        rough = {id_: _first(self._estimate([keys[id_]])) for id_ in cost}
        self.model = CostModel.fit([(workloads[id_], hours) for id_, hours in cost.items()])
        # fitted on estimates as well, so that their mean error cancels
        self._rough_model = CostModel.fit([(rough[id_], hours) for id_, hours in cost.items()])

    @property
    def in_core_hours(self) -> bool:
        """Whether costs are known in core-hours."""
        return self._fixed is not None or self.model.unit == CORE_HOURS

    def __str__(self) -> str:
        """Basis of the costs, as text."""
        return str(self.model) if self._fixed is None else f"every calculation takes {self._fixed:g} core-hours"

    def counted(self, keys: Sequence[MaterialKey]) -> list[float]:
        """Cost of a few crystals, their displaced supercells counted; in the model's unit."""
        if self._fixed is not None:
            return [self._fixed] * len(keys)
        workloads = self._count(keys)
        if self._uncounted:
            shown = ", ".join(self._uncounted[:3]) + (", ..." if len(self._uncounted) > 3 else "")
            self._say(f"force calls of {len(self._uncounted)} crystals are estimated, not counted: {shown}")
        return [float(self.model.predict(workloads[key.material_id])) for key in keys]

    def estimated(self, keys: Sequence[MaterialKey]) -> NDArray[np.float64]:
        """Cost of N crystals in the model's unit, their displaced supercells estimated."""
        if self._fixed is not None:
            return np.full(len(keys), self._fixed)
        parts = (keys[start : start + _CRYSTALS] for start in range(0, len(keys), _CRYSTALS))
        return np.concatenate([self._rough_model.predict(self._estimate(part)) for part in parts])

    def _count(self, keys: Sequence[MaterialKey]) -> dict[str, Workload]:
        """Workload by material id, counted if it can be."""
        crystals = dict(zip((key.material_id for key in keys), self._crystals(keys), strict=True))
        found = {}
        for key in keys:
            try:
                found[key.material_id] = self._counter({key.content_hash: crystals[key.material_id]})[key.content_hash]
            except SupercellError as error:
                self._uncounted.append(f"{key.material_id} ({error})")
            except ModuleNotFoundError:
                self._uncounted.append(f"{key.material_id} (phono3py is missing: pip install kappascout[phonons])")
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
        return estimate_workload(sites, groups, volume, electrons, *self._lengths)

    def _crystals(self, keys: Sequence[MaterialKey]) -> Iterable[Crystal]:
        for _, structure in self._store.structures([key.material_id for key in keys]):
            yield Crystal.from_dict(structure)


def _lengths(configuration: Configuration) -> tuple[float, float | None]:
    """Size of supercells and cutoff of pairs, from the settings of the labeler."""
    if configuration.labeler.kind == "phonons":
        from engine.physics.phonon_settings import PhononSettings

        settings = PhononSettings(**configuration.labeler.settings)
        return settings.min_length, settings.pair_cutoff
    return configuration.dft.min_length, configuration.dft.pair_cutoff


def _first(workload: Workload) -> Workload:
    """Numbers of a workload of one crystal, as columns."""
    calls, atoms, electrons = (float(part[0]) for part in (workload.calls, workload.atoms, workload.electrons))
    return Workload(calls, atoms, electrons, workload.exact)
