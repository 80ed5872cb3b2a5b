"""Frozen records that the store takes and returns, instead of database objects.

Fields that the store fills in (ids, times, states) have defaults and are ignored in input. Times are UTC in ISO
8601. Dictionaries must be JSON: text keys, finite numbers, no NumPy arrays.
"""

from __future__ import annotations

import builtins
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from db.exceptions import InvalidRecordError
from db.json_values import Json, PropertyValue, require_json, require_properties, require_structure, require_text
from db.states import CampaignState, FailureReason, JobState, QueueState, RoundState

KAPPA_UNIT = "W/(m K)"


def utc_now() -> str:
    """Time of day in UTC, ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class CampaignRecord:
    """An objective over a pool with a budget."""

    name: str
    """Name, unique in its store."""
    goal: str
    """Goal, e.g. ``min`` or ``max``."""
    property: str
    """The property that is learned and ranked, e.g. ``kappa_300K``."""
    settings: Json = field(default_factory=dict)
    """Settings of the campaign at its creation."""
    seed: int = 0
    """Seed of all random choices."""
    state: CampaignState = CampaignState.ACTIVE
    created_at: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be stored as JSON."""
        require_text("campaign", self, "name", "goal", "property")
        require_json(self.settings, f"settings of campaign {self.name!r}")


@dataclass(frozen=True)
class SourceRecord:
    """One source of a material, and its id there."""

    record_id: str
    """Id in that file or database."""
    origin: str
    """File and archive member, or database."""
    retrieved_at: str = ""
    """Time of reading; set by the store when empty."""
    database_version: str | None = None
    query: str | None = None
    note: str = ""
    content_hash: str | None = None
    """Content hash of the crystal from this source; it differs from the material's for a near copy."""
    energy: float | None = None
    """Energy above the hull of the crystal from this source, eV per atom; of copies the lowest one is used."""


@dataclass(frozen=True)
class MaterialRecord:
    """A standardised crystal with a stable id, properties and sources."""

    material_id: str
    content_hash: str
    """Content hash, equal for the same crystal in another cell, origin or site order."""
    formula: str
    chemical_system: str
    """Element symbols in alphabetical order joined by dashes."""
    spacegroup: int
    n_sites: int
    bucket: str
    """Key shared by copies of one crystal from different databases."""
    structure: Json
    """The standardised crystal: ``lattice`` (3 x 3), ``numbers`` (n) and ``frac_coords`` (n x 3)."""
    properties: dict[str, PropertyValue] = field(default_factory=dict)
    """Known properties by name, unit in the name (``band_gap_eV``)."""
    sources: tuple[SourceRecord, ...] = ()
    """Sources; the first has the id ``material_id``. Empty: one unnamed source under its own id."""

    def __post_init__(self) -> None:
        """Refuse what cannot be stored, and add an unnamed source if there is none."""
        require_text("material", self, "material_id", "content_hash", "formula", "bucket")
        sources = self.sources or (SourceRecord(self.material_id, ""),)
        if all(source.record_id != self.material_id for source in sources):
            raise InvalidRecordError(
                f"material {self.material_id!r} has sources but none under its own id "
                f"({', '.join(source.record_id for source in sources)}); add one"
            )
        object.__setattr__(self, "sources", sources)
        require_properties(self.properties, self.material_id)
        require_structure(self.structure, self.material_id)


class MaterialKey(NamedTuple):
    """Key columns of a material: everything except structure, properties and sources."""

    material_id: str
    content_hash: str
    formula: str
    chemical_system: str
    spacegroup: int
    n_sites: int
    bucket: str


@dataclass(frozen=True)
class CopyRecord:
    """A near copy: a crystal that is almost equal to a material of the store."""

    existing_id: str
    """Any id of the material."""
    copy: MaterialRecord
    """The crystal as read, under its first source."""
    represents: bool = False
    """Whether its structure is to represent the material."""


@dataclass(frozen=True)
class AddReport:
    """Result of adding a batch of materials."""

    added: list[str]
    """Ids of new materials."""
    duplicates: list[tuple[str, str]]
    """Id of the record, and id of the material with the same crystal."""
    conflicts: list[tuple[str, str]]
    """Id that was refused, and the reason."""
    unchanged: list[str]
    """Ids that were known already with the same crystal."""


@dataclass(frozen=True)
class RejectionRecord:
    """A crystal that was refused."""

    source: str
    """File and archive member, or database."""
    record_id: str
    reason: str
    """Reason as a machine-readable word."""
    message: str
    remedy: str
    """How to correct it."""
    at: str = ""


class SourceNote(NamedTuple):
    """A note on a crystal that was added."""

    source: str
    """File and archive member, or database."""
    record_id: str
    """Its id there."""
    material_id: str
    note: str


@dataclass(frozen=True)
class LabelRecord:
    """One value of one property of one material at one fidelity."""

    material_id: str
    """In input any id of the material; in output the material's own."""
    property: str
    value: float
    unit: str
    fidelity: str
    """``experiment``, ``dft``, ``mlip``, ``agl``, ..."""
    temperature: float | None = None
    """Temperature in kelvin."""
    uncertainty: float | None = None
    """Standard deviation, in ``unit``."""
    method: str = ""
    source: str = ""
    provenance: Json = field(default_factory=dict)
    cost: float | None = None
    """Cost in core-hours."""
    record_id: str = ""
    """Id given in input; values of two copies of one crystal are both stored."""
    id: int | None = None
    created_at: str = ""
    superseded_by: int | None = None
    """Id of the label that supersedes this one."""
    withdrawal: int | None = None
    """Number of the campaign's withdrawal that withdrew it, from 1; None if it is not withdrawn."""
    withdrawn_at: str | None = None
    withdrawn_by: str | None = None
    withdrawn_reason: str | None = None

    @builtins.property  # the field above hides the plain name from type checkers
    def is_current(self) -> bool:
        """Whether it is neither superseded nor withdrawn."""
        return self.superseded_by is None and self.withdrawal is None


@dataclass(frozen=True)
class LabelReport:
    """Result of adding a batch of labels."""

    added: list[int]
    """Ids of the labels written."""
    unchanged: list[int]
    """Ids of labels that were known already with the same value, withdrawn ones too."""
    superseded: list[int]
    """Ids of earlier labels that an added one supersedes."""


@dataclass(frozen=True)
class FailureRecord:
    """A failed calculation."""

    material_id: str
    """In input any id of the material; in output the material's own."""
    property: str
    fidelity: str
    reason: FailureReason
    message: str = ""
    method: str = ""
    source: str = ""
    provenance: Json = field(default_factory=dict)
    cost: float | None = None
    """Cost in core-hours."""
    id: int | None = None
    created_at: str = ""
    voiding: int | None = None
    """Number of the campaign's voiding that voided it, from 1; None if it is not voided."""
    voided_at: str | None = None
    voided_by: str | None = None
    voided_note: str | None = None

    @builtins.property  # the field above hides the plain name from type checkers
    def is_current(self) -> bool:
        """Whether it still stands: its queue entry was neither retried nor reopened."""
        return self.voiding is None

    def __post_init__(self) -> None:
        """Refuse what cannot be stored as JSON."""
        require_text("failure", self, "material_id", "property", "fidelity")
        require_json(self.provenance, f"provenance of the failure of {self.material_id!r}")


@dataclass(frozen=True)
class ArtifactRecord:
    """A file of the campaign, identified by its SHA-256."""

    path: str
    """Path relative to the campaign directory."""
    sha256: str
    rows: int | None = None


@dataclass(frozen=True)
class MemberRecord:
    """One member of an ensemble and its checkpoint."""

    index: int
    seed: int
    path: str
    """Path relative to the campaign directory."""
    sha256: str
    metrics: Json = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot be stored as JSON."""
        require_json(self.metrics, f"metrics of member {self.index}")


@dataclass(frozen=True)
class ModelRecord:
    """One trained ensemble."""

    model_id: str
    parent_id: str | None = None
    """Id of the model of this store that it was fine-tuned from."""
    stage: Json = field(default_factory=dict)
    """Settings of the stage that led from the parent, or from the starting backbone, to this model."""
    backbone_hash: str = ""
    data_hash: str = ""
    settings: Json = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    code_version: str = ""
    metrics: Json = field(default_factory=dict)
    members: tuple[MemberRecord, ...] = ()
    created_at: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be stored as JSON."""
        require_text("model", self, "model_id")
        for name in ("stage", "settings", "metrics"):
            require_json(getattr(self, name), f"{name} of model {self.model_id!r}")


@dataclass(frozen=True)
class StateChange:
    """One move of a queue entry; ``from_state`` is None where it entered the queue."""

    from_state: QueueState | None
    to_state: QueueState
    at: str
    author: str
    note: str = ""


@dataclass(frozen=True)
class QueueEntryRecord:
    """A material to compute next, and why."""

    rank: int
    """Rank from 1, the most wanted first."""
    material_id: str
    predicted_mean: float | None = None
    """In the unit of the campaign's property, as are ``predicted_lower`` and ``predicted_upper``; None where no model
    predicted (first batch)."""
    predicted_lower: float | None = None
    predicted_upper: float | None = None
    log10_mean: float | None = None
    log10_std: float | None = None
    acquisition_value: float | None = None
    expected_cost: float | None = None
    """Expected cost in core-hours."""
    reason: str = ""
    """Why it was chosen, as text."""
    fidelity: str = ""
    """Fidelity of the queried label."""
    details: Json = field(default_factory=dict)
    """Further data of its acquisition function."""
    id: int | None = None
    round: int | None = None
    state: QueueState = QueueState.PROPOSED
    history: tuple[StateChange, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be stored as JSON."""
        for name in (*PREDICTED_FIELDS, "acquisition_value", "expected_cost"):
            require_json(getattr(self, name), f"{name} of queue entry {self.material_id!r}")
        require_json(self.details, f"details of queue entry {self.material_id!r}")


@dataclass(frozen=True)
class JobRecord:
    """One job of a queueing system that works on a queue entry, or an array of jobs."""

    entry_id: int
    """The queue entry."""
    name: str
    """Name in the queueing system, unique in the campaign."""
    stage: str
    """Part of the calculation: ``prepare``, ``forces``, ``kappa``, ..."""
    attempt: int
    """Number of the attempt at this entry, from 1."""
    tasks: int = 1
    """Number of tasks; more than one is an array."""
    queue: str = ""
    """Queueing system, and host if it is another one: ``slurm``, ``slurm on login.site.org``."""
    folder: str = ""
    """Folder of the calculation, on the host."""
    resources: Json = field(default_factory=dict)
    """Options it was submitted with."""
    job_id: str | None = None
    """Id that the queueing system gave."""
    state: JobState = JobState.WRITTEN
    written_at: str = ""
    submitted_at: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    missing_since: str | None = None
    """Since when the queueing system does not know it, without a record of its end."""
    nodes: str = ""
    exit_code: int | None = None
    core_hours: float | None = None
    reason: FailureReason | None = None
    """Why it failed, where the queueing system tells."""
    message: str = ""
    """The same as text."""
    id: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be stored as JSON."""
        require_text(f"job {self.name!r}", self, "name", "stage", "queue", "folder")
        require_json(self.resources, f"resources of job {self.name!r}")
        require_json(self.core_hours, f"core_hours of job {self.name!r}")


@dataclass(frozen=True)
class Prediction:
    """Prediction of a round's model for a material it queued."""

    material_id: str
    fidelity: str
    round: int
    mean: float
    """In learned units, as is ``std``: log10 of the value if ``is_logarithmic``, else the value."""
    std: float
    is_logarithmic: bool


PREDICTED_FIELDS = ("predicted_mean", "predicted_lower", "predicted_upper", "log10_mean", "log10_std")


@dataclass(frozen=True)
class RoundRecord:
    """A round: train, score, rank, queue; evaluated when its labels arrive."""

    number: int
    """Number from 1."""
    state: RoundState
    manifest: Json = field(default_factory=dict)
    """Manifest: hashes of pool, labels, settings, weights and code that determine its outcome."""
    model_id: str | None = None
    metrics_before: Json | None = None
    """Cross-validated metrics of the model on its training labels."""
    metrics_after: Json | None = None
    """Prospective metrics: its predictions against the labels that arrived."""
    predictions: ArtifactRecord | None = None
    """File with the predictions of the whole pool."""
    steps: dict[str, str] = field(default_factory=dict)
    """Time at which each step was finished, by its name."""
    started_at: str = ""
    finished_at: str | None = None
    """When it was first judged."""
