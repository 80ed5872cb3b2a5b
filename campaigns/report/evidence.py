"""Data of a report, read from a campaign once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from campaigns.campaign import Campaign
from campaigns.configuration import round_settings
from campaigns.exceptions import CampaignError
from campaigns.goals import Scale
from campaigns.models.lineage import ROUND, kind_of
from campaigns.pool.labels import training_labels
from campaigns.queue import Failed
from campaigns.round.intervals import interval_width
from campaigns.round.manifest import RoundManifest
from campaigns.round.stopping import stopping_advice
from campaigns.stability.names import stability_of
from campaigns.status import status
from db.states import QueueState
from engine.metrics.calibration import Z90

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from campaigns.configuration import CampaignSection
    from db.records import FailureRecord, LabelRecord, MaterialKey, ModelRecord, QueueEntryRecord, RoundRecord
    from db.states import CampaignState
    from engine.metrics.stopping import StoppingAdvice

EXTREME = {"min": "lowest", "max": "highest"}
"""Word for the best value, by goal."""
MAP_SAMPLE = 5000
"""Most materials of the pool on the map, so that the page stays fast."""


@dataclass(frozen=True)
class Predictions:
    """n predictions in learned units with their n labels."""

    ids: list[str]
    formulas: list[str]
    rounds: NDArray[np.int64]
    """Round of each prediction."""
    values: NDArray[np.float64]
    """Labels in learned units."""
    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def z(self) -> NDArray[np.float64]:
        """Standardised residuals."""
        return (self.values - self.mean) / self.std

    @property
    def inside(self) -> int:
        """Number of labels inside the 90 % interval of their prediction."""
        return int((np.abs(self.z) <= Z90).sum())


@dataclass(frozen=True)
class EmbeddingMap:
    """n materials on the first two principal components of their embeddings."""

    keys: list[MaterialKey]
    position: NDArray[np.float64]
    """Coordinates, n x 2."""
    explained: NDArray[np.float64]
    """Explained variance of each of the two, as a share."""
    pool_size: int
    """Number of materials with an embedding."""
    sampled: int
    """Number of them drawn at random; labelled and queued materials are added."""
    predicted: dict[str, tuple[float, ...]]
    """Mean and 90 % interval in the property's unit by material id, of the latest scored round."""


class Evidence:
    """A campaign's records, and figures derived from them."""

    def __init__(self, campaign: Campaign):
        self.campaign = campaign
        self.section: CampaignSection = campaign.configuration.campaign
        self.scale = Scale(self.section.learned_scale)
        self.state: CampaignState = campaign.store.campaign().state
        self.status: dict[str, Any] = status(campaign.workspace)
        self.rounds: list[RoundRecord] = campaign.store.rounds()
        self.queue: list[tuple[QueueEntryRecord, str]] = campaign.with_formula(campaign.store.queue())
        self.stability: dict[str, str] = stability_of(campaign.store, {e.material_id for e, _ in self.queue})
        """Stability of queued materials in words, by id, where there is something to say."""
        self.labels: dict[str, LabelRecord] = training_labels(campaign.store, campaign.configuration)
        """Labels by material id, in order of arrival."""
        self.models: list[ModelRecord] = [m for m in campaign.store.models() if kind_of(m) == ROUND]
        self.failures: list[FailureRecord] = campaign.store.failures(self.section.property)
        self.failed = Failed.of(campaign.workspace)
        """Failures that stand, by the queue entry that they ended."""
        self.index: list[MaterialKey] = campaign.store.material_index()

    @property
    def learned_unit(self) -> str:
        """Unit of errors and spreads."""
        return self.scale.unit_of_errors(self.section.unit)

    @cached_property
    def formulas(self) -> dict[str, str]:
        """Formula by material id."""
        return {key.material_id: key.formula for key in self.index}

    @cached_property
    def queried_in(self) -> dict[str, int]:
        """Round that queried a label, by material id; labels that no round queried are absent."""
        return {e.material_id: e.round or 0 for e, _ in self.queue if e.state is QueueState.DONE}

    @property
    def last_queued(self) -> int | None:
        """Number of the latest round with a queue."""
        return max((e.round or 0 for e, _ in self.queue), default=None)

    @property
    def hit(self) -> float | None:
        """Value beyond which a label is a hit."""
        known = [hit for r in self.rounds if (hit := RoundManifest.of(r).hit) is not None]
        return known[-1] if known else self.section.hit

    @property
    def trained(self) -> list[RoundRecord]:
        """Rounds with a model, first to last."""
        return [r for r in self.rounds if "model" in (r.metrics_before or {})]

    @cached_property
    def advice(self) -> StoppingAdvice:
        """Advice on stopping, with reasons."""
        return stopping_advice(self.campaign.workspace)

    @property
    def costs(self) -> list[tuple[int, float, float | None]]:
        """Number, core-hours spent and core-hours expected of each evaluated round with a known cost."""
        after = [(r.number, r.metrics_after or {}) for r in self.rounds]
        return [(number, m["cost"], m.get("expected_cost")) for number, m in after if m.get("cost")]

    def rejection_counts(self) -> dict[str, int]:
        """Number of records refused for each reason, most first."""
        return dict(Counter(r.reason for r in self.campaign.store.rejections()).most_common())

    def prospective(self) -> Predictions | None:
        """Collect predictions at the time of queueing with the labels that arrived; all rounds."""
        met = [
            (e, formula)
            for e, formula in self.queue
            if e.state is QueueState.DONE and e.material_id in self.labels and "learned_mean" in e.details
        ]
        if not met:
            return None
        widths = {record.number: interval_width(record) for record in self.rounds}
        return Predictions(
            ids=[e.material_id for e, _ in met],
            formulas=[formula for _, formula in met],
            rounds=np.array([e.round or 0 for e, _ in met]),
            values=self.scale.learned([self.labels[e.material_id].value for e, _ in met]),
            mean=np.array([e.details["learned_mean"] for e, _ in met]),
            std=np.array([e.details["learned_std"] * widths.get(e.round or 0, 1.0) for e, _ in met]),
        )

    def before(self) -> Predictions | None:
        """Collect the latest model's cross-validated predictions of its own labels."""
        for record in reversed(self.trained):
            labels = training_labels(self.campaign.store, round_settings(record), RoundManifest.of(record).moment)
            rows: dict[str, Any] = (record.metrics_before or {})["held_out"]
            ids = [id_ for id_ in labels if id_ in rows]
            if ids:
                return Predictions(
                    ids=ids,
                    formulas=[self.formulas[id_] for id_ in ids],
                    rounds=np.full(len(ids), record.number),
                    values=self.scale.learned([labels[id_].value for id_ in ids]),
                    mean=np.array([rows[id_][0] for id_ in ids]),
                    std=np.array([rows[id_][1] for id_ in ids]),
                )
        return None

    def on_the_map(self) -> set[str]:
        """Ids of the materials the map marks as queued: the latest round's, and all whose result is pending."""
        return {e.material_id for e, _ in self.queue if e.round == self.last_queued or not e.state.is_finished}

    def embedding_map(self) -> EmbeddingMap | None:
        """Principal components of the standardised embeddings; None before the first round."""
        embedded = next((found for r in reversed(self.rounds) if (found := self._embeddings(r)) is not None), None)
        if embedded is None:
            return None
        known = [i for i, key in enumerate(self.index) if key.content_hash in embedded]
        rng = np.random.default_rng(0)  # a fixed seed: the same campaign gives the same map
        drawn = set(known if len(known) <= MAP_SAMPLE else rng.choice(known, MAP_SAMPLE, replace=False).tolist())
        marked = self.on_the_map() | set(self.labels)
        shown = [i for i in known if i in drawn or self.index[i].material_id in marked]
        if len(shown) < 3:
            return None
        keys = [self.index[i] for i in shown]
        position, explained = _principal_components(embedded.read([key.content_hash for key in keys]))
        scored = next((r for r in reversed(self.rounds) if r.predictions), None)
        ids = [key.material_id for key in keys]
        columns = ("mean", "lower", "upper")
        predicted = self._predicted(scored, ids, columns) if scored else {}
        return EmbeddingMap(keys, position, explained, len(known), len(drawn), predicted)

    def prevalence(self) -> tuple[dict[str, float], dict[str, float]]:
        """Share of crystals that hold each element: in the pool, and in all that was queued and not taken off again."""
        systems = {key.material_id: key.chemical_system for key in self.index}
        taken_off = (QueueState.WITHDRAWN, QueueState.DEFERRED)
        asked = {e.material_id for e, _ in self.queue if e.state not in taken_off}
        return _shares(systems.values()), _shares(systems[id_] for id_ in asked)

    def _predicted(
        self, record: RoundRecord, ids: Collection[str], columns: tuple[str, ...]
    ) -> dict[str, tuple[float, ...]]:
        """Columns of a round's stored predictions for these materials, by id; the whole table is never in memory."""
        if record.predictions is None:
            return {}
        import pyarrow.dataset as ds

        path = self.campaign.directory / record.predictions.path
        if not path.is_file():
            raise CampaignError(
                f"{path} is missing, the predictions of round {record.number}; copy artifacts/ with the campaign"
            )
        table = ds.dataset(path).to_table(["id", *columns], filter=ds.field("id").isin(list(ids)))
        values = zip(*(table.column(name).to_pylist() for name in columns), strict=True)
        return dict(zip(table.column("id").to_pylist(), values, strict=True))

    def _embeddings(self, record: RoundRecord) -> _Embeddings | None:
        precision = round_settings(record).model.embeddings
        suffix = "" if precision == "float32" else f"-{precision}"
        hashes = RoundManifest.of(record).backbone_hashes
        folders = [self.campaign.features / "embeddings" / f"{sha256[:32]}{suffix}" for sha256 in hashes]
        return _Embeddings(folders) if all(any(folder.glob("*.arrow")) for folder in folders) else None


class _Embeddings:
    """Embeddings on disk, of one backbone or several, read without the backbone: a report needs no torch."""

    def __init__(self, folders: Sequence[Path]):
        import pyarrow as pa

        from engine.graphs.shards import ShardStore

        self._shards = []
        for folder in folders:
            with pa.memory_map(str(next(folder.glob("*.arrow")))) as source:
                schema = pa.ipc.open_file(source).schema
            self._shards.append(ShardStore(folder, schema.remove(schema.get_field_index("key"))))

    def __contains__(self, content_hash: str) -> bool:
        return all(content_hash in shards for shards in self._shards)

    def read(self, hashes: list[str]) -> NDArray[np.float64]:
        """N x d embeddings of all backbones, with the common statistics only once."""
        from engine.learning.features.statistics import STATISTICS

        first, *others = (shards.read_vectors("embedding", hashes) for shards in self._shards)
        columns = [first, *(vectors[:, len(STATISTICS) :] for vectors in others)]
        return np.concatenate(columns, axis=1).astype(np.float64)


def _principal_components(embeddings: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates (n x 2) and explained shares (2) of the standardised rows."""
    spread = embeddings.std(axis=0)
    varies = spread > 1e-9
    standard = (embeddings[:, varies] - embeddings[:, varies].mean(axis=0)) / spread[varies]
    variances, directions = np.linalg.eigh(standard.T @ standard / len(standard))
    first = directions[:, [-1, -2]]
    first = first * np.sign(first[np.abs(first).argmax(axis=0), [0, 1]])  # a fixed sign: the same map every time
    return standard @ first, variances[[-1, -2]] / variances.sum()


def _shares(systems: Iterable[str]) -> dict[str, float]:
    systems = list(systems)
    counts = Counter(symbol for system in systems for symbol in system.split("-"))
    return {symbol: count / len(systems) for symbol, count in counts.items()}
