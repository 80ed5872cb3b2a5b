"""Frozen records that cross the store's door; no database object leaves it.

Fields that the store fills in (ids, times, states) have defaults and are ignored on the way in. Times are UTC in ISO
8601. Dictionaries must be JSON: text keys, finite numbers, no NumPy arrays.
"""

from __future__ import annotations

import builtins
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from db.exceptions import InvalidRecordError
from db.json_values import Json, PropertyValue, require_json, require_properties, require_structure, require_text
from db.states import CampaignState, FailureReason, QueueState, RoundState

KAPPA_UNIT = "W/(m K)"


def utc_now() -> str:
    """Time of day in UTC, ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class CampaignRecord:
    """An objective over a pool with a budget."""

    name: str
    """Unique in its store."""
    goal: str
    """What is sought, e.g. ``min`` or ``max``."""
    property: str
    """The property that is learned and ranked, e.g. ``kappa_300K``."""
    settings: Json = field(default_factory=dict)
    """Settings the campaign was made with."""
    seed: int = 0
    """Root of every random choice."""
    state: CampaignState = CampaignState.ACTIVE
    created_at: str = ""

    def __post_init__(self) -> None:
        """Refuse what could not be written."""
        require_text("campaign", self, "name", "goal", "property")
        require_json(self.settings, f"settings of campaign {self.name!r}")


@dataclass(frozen=True)
class SourceRecord:
    """One place a material came from, and the id it had there."""

    record_id: str
    """The id in that file or database."""
    origin: str
    """File and member, or database."""
    retrieved_at: str = ""
    """When it was read; filled by the store when empty."""
    database_version: str | None = None
    query: str | None = None
    note: str = ""
    content_hash: str | None = None
    """Hash of the crystal as it came from here; it differs from the material's for a near-duplicate."""
    energy: float | None = None
    """Energy of the crystal as it came from here, eV per atom above the hull; of copies the lowest one is kept."""


@dataclass(frozen=True)
class MaterialRecord:
    """A standardised crystal with a stable id, what is known of it, and where it came from."""

    material_id: str
    content_hash: str
    """Equal for the same crystal in another cell, origin or site order."""
    formula: str
    chemical_system: str
    """Element symbols in alphabetical order joined by dashes."""
    spacegroup: int
    n_sites: int
    bucket: str
    """Key under which copies of one crystal from different databases meet."""
    structure: Json
    """The standardised crystal: ``lattice`` (3 x 3), ``numbers`` (n) and ``frac_coords`` (n x 3)."""
    properties: dict[str, PropertyValue] = field(default_factory=dict)
    """Known properties by name, unit in the name (``band_gap_eV``)."""
    sources: tuple[SourceRecord, ...] = ()
    """Where it came from; the first is under ``material_id``. Empty means: under its own id, from an unnamed place."""

    def __post_init__(self) -> None:
        """Refuse what could not be written, and name the source if there is none."""
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
    """The light columns of a material: everything but structure, properties and sources."""

    material_id: str
    content_hash: str
    formula: str
    chemical_system: str
    spacegroup: int
    n_sites: int
    bucket: str


@dataclass(frozen=True)
class CopyRecord:
    """A crystal that came in and is a material of the store in nearly equal form."""

    existing_id: str
    """Any id of the material."""
    copy: MaterialRecord
    """The crystal as it came, under its first source."""
    represents: bool = False
    """Whether its structure is to stand for the material from now on."""


@dataclass(frozen=True)
class AddReport:
    """What became of a batch of materials."""

    added: list[str]
    """Ids of new materials."""
    duplicates: list[tuple[str, str]]
    """Id that came in, and id of the material that already was that crystal."""
    conflicts: list[tuple[str, str]]
    """Id that was refused, and why."""
    unchanged: list[str]
    """Ids that were there already with the same crystal."""


@dataclass(frozen=True)
class RejectionRecord:
    """A crystal that was refused on the way in."""

    source: str
    """File and member, or database."""
    record_id: str
    reason: str
    """Machine-readable word."""
    message: str
    remedy: str
    """How to mend it."""
    at: str = ""


class SourceNote(NamedTuple):
    """What was noticed when a crystal came in."""

    source: str
    """File and member, or database."""
    record_id: str
    """The id it had there."""
    material_id: str
    note: str


@dataclass(frozen=True)
class LabelRecord:
    """One value of one property of one material at one fidelity."""

    material_id: str
    """On the way in any id the material is known under; on the way out the material's own."""
    property: str
    value: float
    unit: str
    fidelity: str
    """``experiment``, ``dft``, ``mlip``, ``agl``, ..."""
    temperature: float | None = None
    """Kelvin."""
    uncertainty: float | None = None
    """One standard deviation, in ``unit``."""
    method: str = ""
    source: str = ""
    provenance: Json = field(default_factory=dict)
    cost: float | None = None
    """What it took, in core-hours."""
    record_id: str = ""
    """The id it came in under; two copies of one crystal may each bring a value, and both are kept."""
    id: int | None = None
    created_at: str = ""
    superseded_by: int | None = None
    """Id of the label that corrects this one."""
    withdrawal: int | None = None
    """Which of the campaign's withdrawals took it back, counted from 1; None if none did."""
    withdrawn_at: str | None = None
    withdrawn_by: str | None = None
    withdrawn_reason: str | None = None

    @builtins.property  # the field above hides the plain name from type checkers
    def is_current(self) -> bool:
        """Whether no other label corrects this one and nobody has withdrawn it."""
        return self.superseded_by is None and self.withdrawal is None


@dataclass(frozen=True)
class LabelReport:
    """What became of a batch of labels."""

    added: list[int]
    """Ids of the labels written."""
    unchanged: list[int]
    """Ids of labels that were there already with the same value, withdrawn ones too."""
    superseded: list[int]
    """Ids of earlier labels that an added one corrects."""


@dataclass(frozen=True)
class FailureRecord:
    """A calculation that gave no label."""

    material_id: str
    """On the way in any id the material is known under; on the way out the material's own."""
    property: str
    fidelity: str
    reason: FailureReason
    message: str = ""
    method: str = ""
    source: str = ""
    provenance: Json = field(default_factory=dict)
    cost: float | None = None
    """What it took, in core-hours."""
    id: int | None = None
    created_at: str = ""

    def __post_init__(self) -> None:
        """Refuse what could not be written."""
        require_text("failure", self, "material_id", "property", "fidelity")
        require_json(self.provenance, f"provenance of the failure of {self.material_id!r}")


@dataclass(frozen=True)
class ArtifactRecord:
    """A file that belongs to the campaign, known by its content."""

    path: str
    """Relative to the campaign directory."""
    sha256: str
    rows: int | None = None


@dataclass(frozen=True)
class MemberRecord:
    """One member of an ensemble and its checkpoint."""

    index: int
    seed: int
    path: str
    """Relative to the campaign directory."""
    sha256: str
    metrics: Json = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what could not be written."""
        require_json(self.metrics, f"metrics of member {self.index}")


@dataclass(frozen=True)
class ModelRecord:
    """One trained ensemble."""

    model_id: str
    parent_id: str | None = None
    """The model of this store that it was fine-tuned from."""
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
        """Refuse what could not be written."""
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
    """From 1, the most wanted first."""
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
    """In core-hours."""
    reason: str = ""
    """Why it was chosen, in words."""
    fidelity: str = ""
    """The fidelity its label is wanted at."""
    details: Json = field(default_factory=dict)
    """Anything else its acquisition function knows."""
    id: int | None = None
    round: int | None = None
    state: QueueState = QueueState.PROPOSED
    history: tuple[StateChange, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what could not be written."""
        for name in (*PREDICTED_FIELDS, "acquisition_value", "expected_cost"):
            require_json(getattr(self, name), f"{name} of queue entry {self.material_id!r}")
        require_json(self.details, f"details of queue entry {self.material_id!r}")


@dataclass(frozen=True)
class Prediction:
    """What the model of a round predicted of a material it queued."""

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
    """Train, score, rank, queue; judged when its labels arrive."""

    number: int
    """From 1."""
    state: RoundState
    manifest: Json = field(default_factory=dict)
    """Hashes of pool, labels, settings, weights and code that decide its outcome."""
    model_id: str | None = None
    metrics_before: Json | None = None
    """Cross-validated on the labels it was trained on."""
    metrics_after: Json | None = None
    """Its predictions against the labels that arrived."""
    predictions: ArtifactRecord | None = None
    """Predictions of the whole pool."""
    steps: dict[str, str] = field(default_factory=dict)
    """When each step was finished, by the step's name."""
    started_at: str = ""
    finished_at: str | None = None
    """When it was first judged."""
