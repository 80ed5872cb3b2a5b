"""What a round keeps in the store beside its queue: the manifest it began with, and figures that later steps read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from campaigns.pool.labels import Moment
from db.records import Json

if TYPE_CHECKING:
    from db.records import RoundRecord


class _Kept(BaseModel):
    """JSON of the store, read with defaults for what older versions did not keep; keys it does not know stay."""

    model_config = ConfigDict(frozen=True, extra="allow")

    def to_json(self) -> Json:
        """What was given, and nothing else, in the order of the fields."""
        return self.model_dump(exclude_unset=True)


class QueuedCheaper(_Kept):
    """Of the lower fidelity that may be queued: material ids when the round began."""

    pending: list[str] = []
    """Their label is awaited."""
    spent: list[str] = []
    """Not to be proposed again."""


class RoundManifest(_Kept):
    """All that decides a round's outcome, fixed when it begins."""

    settings: Json = {}
    """Sections of ``campaign.toml`` as they were."""
    materials: int = 0
    """Materials of the store, those with an element that the backbone does not know too."""
    pool_sha256: str = ""
    """Of the content hashes of the pool's crystals in order."""
    candidates: int = 0
    """Rows of the pool that may be queued."""
    candidates_sha256: str = ""
    """Of the file that lists them."""
    labels: int = 0
    """Labels that train."""
    labels_up_to: int = 0
    """Id of the last label in the store."""
    withdrawals_up_to: int = 0
    """Number of the last withdrawal."""
    failures_up_to: int = 0
    """Id of the last failed calculation."""
    models: dict[str, str] = {}
    """Hash of the labels of each model that ``campaign.toml`` names, by its folder."""
    core_hours_left: float | None = None
    """Of the budget; None without such a budget."""
    backbone_sha256: str = ""
    backbones: list[str] = []
    """SHA-256 of each backbone of a stack."""
    code_version: str = ""
    batch: int = 0
    """Labels that the round may ask for."""
    pending: list[str] = []
    """Material ids whose label is awaited."""
    hit: float | None = None
    """Value in the property's unit that is a hit, or any better one; None while nothing tells."""
    cheaper: QueuedCheaper = QueuedCheaper()

    @classmethod
    def of(cls, record: RoundRecord) -> RoundManifest:
        """Read that of a round, of whatever version."""
        return cls.model_validate(record.manifest)

    @property
    def target(self) -> str:
        """Property that the round asked for."""
        return str(self.settings.get("campaign", {}).get("property", ""))

    @property
    def fidelity(self) -> str | None:
        """The campaign's own fidelity in the round; None where it was not kept."""
        found = self.settings.get("campaign", {}).get("fidelity")
        return None if found is None else str(found)

    @property
    def moment(self) -> Moment:
        """When the round began, as far as labels go."""
        return Moment(self.labels_up_to, self.withdrawals_up_to)

    @property
    def backbone_hashes(self) -> list[str]:
        """SHA-256 of each backbone; a round that kept no list had one."""
        return self.backbones or [self.backbone_sha256]


class RoundFigures(_Kept):
    """What a round found before its labels arrive, and later steps or rounds decide by.

    The store keeps it among the figures of the model (``metrics_before``), where other keys are for people to read.
    """

    half_width: float | None = None
    """Of a 90 % interval, in predicted standard deviations; None: as of a normal distribution."""
    expected_hit_rate: float | None = None
    """Share of the pool that the model expects to be hits."""
    first_pass: Json | None = None
    """What the first pass kept, and how many of the best of a random sample it lost."""
    best_found: float | None = None
    """Probability that no candidate beats the best label."""
    feasibility: Json | None = None
    """How well failed calculations are told from others."""
    portfolio: dict[str, float] | None = None
    """Gain of each acquisition function of a portfolio, from the labels it brought in earlier rounds."""
    refused: str | None = None
    """Why nothing could be queued."""

    @classmethod
    def of(cls, record: RoundRecord) -> RoundFigures:
        """Read those of a round; empty where it has found nothing yet."""
        known = record.metrics_before or {}
        return cls.model_validate({name: known[name] for name in cls.model_fields if name in known})

    def beside(self, metrics: Json | None) -> Json:
        """Write these over what the store keeps of the round already."""
        return {**(metrics or {}), **self.to_json()}
