"""Records of a round in the store besides its queue: the manifest it began with, and figures that later steps read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from campaigns.pool.labels import Moment
from db.records import Json

if TYPE_CHECKING:
    from db.records import RoundRecord


class _Kept(BaseModel):
    """JSON of the store, with defaults for keys that older versions lack; unknown keys are preserved."""

    model_config = ConfigDict(frozen=True, extra="allow")

    def to_json(self) -> Json:
        """Values that were given, without defaults, in the order of the fields."""
        return self.model_dump(exclude_unset=True)


class QueuedCheaper(_Kept):
    """Material ids of the lower fidelity that may be queued, when the round began."""

    pending: list[str] = []
    """Pending: queued and without a result."""
    spent: list[str] = []
    """Not to be proposed again."""


class RoundManifest(_Kept):
    """Everything that determines a round's outcome, fixed when it begins."""

    settings: Json = {}
    """Sections of ``campaign.toml`` at that time."""
    materials: int = 0
    """Number of materials in the store, including those with an element that the backbone does not know."""
    pool_sha256: str = ""
    """Hash of the content hashes of the pool's crystals in order."""
    candidates: int = 0
    """Number of rows of the pool that may be queued."""
    candidates_sha256: str = ""
    """SHA-256 of the file that lists them."""
    labels: int = 0
    """Number of training labels."""
    labels_up_to: int = 0
    """Id of the last label in the store."""
    withdrawals_up_to: int = 0
    """Number of the last withdrawal."""
    failures_up_to: int = 0
    """Id of the last failed calculation."""
    voidings_up_to: int = 0
    """Number of the last voiding of failures."""
    models: dict[str, str] = {}
    """Hash of the labels of each model that ``campaign.toml`` names, by its folder."""
    core_hours_left: float | None = None
    """Core-hours left of the budget; None without such a budget."""
    dft: Json | None = None
    """Settings of ``[dft]`` that determine sizes and prices of what is queued; None for other labelers."""
    too_large: int = 0
    """Number of materials that are no candidates because earlier rounds found them too large."""
    backbone_sha256: str = ""
    backbones: list[str] = []
    """SHA-256 of each backbone of a stack."""
    code_version: str = ""
    batch: int = 0
    """Number of labels that the round may query."""
    pending: list[str] = []
    """Material ids with a pending label."""
    hit: float | None = None
    """Value in the property's unit at which a hit begins; None while it is not known."""
    cheaper: QueuedCheaper = QueuedCheaper()
    """Of the first lower fidelity that may be queued."""
    further: dict[str, QueuedCheaper] = {}
    """Of the others, by name."""

    @classmethod
    def of(cls, record: RoundRecord) -> RoundManifest:
        """Read that of a round, of any version."""
        return cls.model_validate(record.manifest)

    @property
    def target(self) -> str:
        """Property that the round queried."""
        return str(self.settings.get("campaign", {}).get("property", ""))

    @property
    def fidelity(self) -> str | None:
        """Target fidelity of the round; None where it was not stored."""
        found = self.settings.get("campaign", {}).get("fidelity")
        return None if found is None else str(found)

    @property
    def moment(self) -> Moment:
        """State of the labels when the round began."""
        return Moment(self.labels_up_to, self.withdrawals_up_to)

    @property
    def backbone_hashes(self) -> list[str]:
        """SHA-256 of each backbone; a round without a list had one."""
        return self.backbones or [self.backbone_sha256]


class RoundFigures(_Kept):
    """Results of a round before its labels arrive, on which later steps or rounds depend.

    Stored among the figures of the model (``metrics_before``), whose other keys are only displayed.
    """

    half_width: float | None = None
    """Half width of a 90 % interval, in predicted standard deviations; None: that of a normal distribution."""
    expected_hit_rate: float | None = None
    """Share of the pool that the model expects to be hits."""
    first_pass: Json | None = None
    """Number that the prefilter kept, and how many of the best of a random sample it lost."""
    best_found: float | None = None
    """Probability that no candidate beats the best label."""
    feasibility: Json | None = None
    """Accuracy of the model of failed calculations."""
    portfolio: dict[str, float] | None = None
    """Gain of each acquisition function of a portfolio, from the labels it acquired in earlier rounds."""
    refused: str | None = None
    """Why nothing could be queued."""

    @classmethod
    def of(cls, record: RoundRecord) -> RoundFigures:
        """Read those of a round; empty where there are none yet."""
        known = record.metrics_before or {}
        return cls.model_validate({name: known[name] for name in cls.model_fields if name in known})

    def beside(self, metrics: Json | None) -> Json:
        """Merge these into the figures that the store has of the round."""
        return {**(metrics or {}), **self.to_json()}
