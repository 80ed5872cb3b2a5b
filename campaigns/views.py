"""Reading access to an open campaign: its parts, its queue and labels as tables, its crystals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from campaigns.budget import asked
from campaigns.configuration import Configuration
from campaigns.pool.labels import fidelity_note
from campaigns.queue import queue_row, queue_rows, with_formula
from db.records import LabelRecord, QueueEntryRecord
from db.states import QueueState
from db.store import Store

if TYPE_CHECKING:
    import pandas as pd
    from ase import Atoms
    from pymatgen.core import Structure

    from campaigns.workspace import Workspace
    from engine.materials.crystal import Crystal


class CampaignViews:
    """Methods of a campaign that read and do not change it."""

    workspace: Workspace

    @property
    def directory(self) -> Path:
        """The campaign's folder."""
        return self.workspace.directory

    @property
    def configuration(self) -> Configuration:
        """``campaign.toml`` as it was when the campaign was opened."""
        return self.workspace.configuration

    @property
    def store(self) -> Store:
        """Materials, labels, models, rounds and the queue."""
        return self.workspace.store

    @property
    def artifacts(self) -> Path:
        """Folder of everything that is not in the store."""
        return self.workspace.artifacts

    @property
    def features(self) -> Path:
        """Folder of graphs and embeddings."""
        return self.workspace.features

    def fidelity_note(self) -> str | None:
        """Message on which labels of the campaign's property do not train its models, if there are any."""
        return fidelity_note(self.store, self.configuration)

    def asked(self) -> int:
        """Number of labels the campaign has queried; withdrawn entries and those of a lower fidelity do not count."""
        return asked(self.workspace)

    def queue_entries(
        self, states: Sequence[QueueState] | None = None, round: int | None = None
    ) -> list[QueueEntryRecord]:
        """List queue entries by round and rank."""
        return self.store.queue(states, round)

    def with_formula(self, entries: Sequence[QueueEntryRecord]) -> list[tuple[QueueEntryRecord, str]]:
        """Entries with the formula of their material."""
        return with_formula(self.store, entries)

    def queue(self, states: Sequence[QueueState] | None = None, round: int | None = None) -> pd.DataFrame:
        """List queue entries by round and rank, one a row, with the material's formula."""
        import pandas as pd

        columns = [*queue_row(QueueEntryRecord(rank=1, material_id="none"), ""), "failed_by", "failure", "remedy"]
        return pd.DataFrame(queue_rows(self.workspace, self.store.queue(states, round)), columns=columns)

    def labels(self, property: str | None = None, fidelity: str | None = None) -> pd.DataFrame:
        """List current labels, one a row, filtered by what is given."""
        import pandas as pd

        columns = [field.name for field in fields(LabelRecord)]
        return pd.DataFrame([vars(label) for label in self.store.labels(property, fidelity)], columns=columns)

    def crystal(self, material_id: str) -> Crystal:
        """Standardised crystal of a material, known by any of its ids."""
        from engine.materials.crystal import Crystal

        return Crystal.from_dict(self.store.material(material_id).structure)

    def structure(self, material_id: str) -> Structure:
        """The crystal as a pymatgen ``Structure``."""
        return self.crystal(material_id).to_structure()

    def atoms(self, material_id: str) -> Atoms:
        """The crystal as ASE ``Atoms``."""
        return self.crystal(material_id).to_atoms()
