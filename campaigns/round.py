"""One round: embed, train, score, rank, queue; each step is stored when it is finished, and a killed round goes on.

A round works from its manifest alone (the pool, labels, settings and seed it started with), so that it gives the same
queue however often it is interrupted and whatever arrives meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from campaigns.configuration import Configuration, round_settings
from campaigns.exceptions import CampaignError
from campaigns.files import replaced, write_whole
from campaigns.output import Count
from campaigns.pool import Pool, embed_pool, queued_ids
from campaigns.training_set import Scale, best_value, training_labels
from db.records import ArtifactRecord, MemberRecord, ModelRecord, QueueEntryRecord, RoundRecord
from db.states import RoundState
from engine.acquire.batch import choose_batch
from engine.acquire.cold_start import space_filling
from engine.acquire.reasons import reason
from engine.exceptions import TooFewLabelsError
from engine.learning.ensemble import MIN_LABELS, EnsembleSettings, minimum_labels, train_ensemble
from engine.learning.features import CHUNK, Featuriser
from engine.learning.training import Schedule

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from campaigns.campaign import Campaign
    from db.records import LabelRecord
    from engine.learning.ensemble import Ensemble

Z90 = 1.6448536269514722
"""Half width of a central 90 % interval in standard deviations."""
_CANDIDATES = "candidates.npy"
_COLD_POOL = 20_000
"""A first batch is spread over at most this many candidates, drawn at random from a larger pool."""


def open_round(campaign: Campaign, batch: int) -> RoundRecord:
    """Start the next round: fix in its manifest all that decides its outcome.

    Whatever its settings make impossible is refused here, because a round that has begun keeps its settings.
    """
    settings = campaign.configuration
    store = campaign.store
    backbone = campaign.backbone(settings.model.backbone)
    pool = Pool.of(store, backbone.elements)
    labels = training_labels(store, settings.campaign)
    Scale(settings.campaign.learned_scale).learned([label.value for label in labels.values()])
    pending, spent = queued_ids(store, settings.campaign.fidelity)
    candidates = pool.candidates(store, settings.constraints, {*labels, *pending, *spent})
    manifest = {
        "settings": _settings(settings),
        "materials": len(pool) + len(pool.unknown),
        "pool_sha256": pool.sha256,
        "candidates": len(candidates),
        "candidates_sha256": _keep_candidates(campaign, candidates),
        "labels": len(labels),
        "labels_up_to": max((label.id or 0 for label in store.labels(current_only=False)), default=0),
        "backbone_sha256": backbone.sha256,
        "code_version": code_version(),
        "batch": batch,
        "pending": sorted(pending),
        "hit": _hit_threshold(campaign, labels),
    }
    return store.start_round(manifest)


def finish_round(campaign: Campaign, record: RoundRecord, say: Callable[[str], None]) -> RoundRecord:
    """Do the steps that ``record`` lacks until its batch is in the queue."""
    work = _Round(campaign, record, say)
    while work.record.state is not RoundState.QUEUED:
        work.record = work.next_step()
    return work.record


def changed_settings(settings: Configuration, record: RoundRecord) -> list[str]:
    """Name the settings (``[model] head``) that are not those a round began with."""
    began = _settings(round_settings(record))  # read again, for keys that it lacks have their defaults
    return [
        f"[{section}] {key}"
        for section, keys in _settings(settings).items()
        for key, value in keys.items()
        if began[section][key] != value
    ]


def code_version() -> str:
    """Version of this program, for manifests and models."""
    return version("kappascout")


class _Round:
    def __init__(self, campaign: Campaign, record: RoundRecord, say: Callable[[str], None]):
        self.campaign = campaign
        self.store = campaign.store
        self.record = record
        self.say = lambda text: say(type(text)(f"round {record.number}: {text}"))
        self.manifest = record.manifest
        self.settings = round_settings(record)
        section = self.settings.campaign
        self.scale = Scale(section.learned_scale)
        backbone = campaign.backbone(self.settings.model.backbone)
        self.featuriser = Featuriser(backbone, campaign.features)
        self.pool = Pool.of(self.store, backbone.elements, self.manifest["materials"])
        self.labels = training_labels(self.store, section, self.manifest["labels_up_to"])
        self.seed = int(np.random.SeedSequence([section.seed, record.number]).generate_state(1)[0])
        self.folder = _folder(campaign, record.number)
        self._model: Ensemble | None = None
        self._check_inputs()

    def next_step(self) -> RoundRecord:
        """Do the step after the last finished one."""
        steps = {
            RoundState.STARTED: self.embed,
            RoundState.EMBEDDED: self.train,
            RoundState.TRAINED: self.score,
            RoundState.SCORED: self.rank,
            RoundState.RANKED: self.queue,
        }
        return steps[self.record.state]()

    def embed(self) -> RoundRecord:
        """Every candidate gets its embedding."""
        if self.pool.unknown:
            shown = ", ".join(f"{key.material_id} ({key.formula})" for key in self.pool.unknown[:5])
            more = ", ..." if len(self.pool.unknown) > 5 else ""
            self.say(f"{len(self.pool.unknown)} materials left out, the backbone lacks an element: {shown}{more}")
        for done in embed_pool(self.store, self.featuriser, self.pool):
            self.say(Count(f"{done} of {len(self.pool)} crystals embedded"))
        return self._finish(RoundState.EMBEDDED)

    def train(self) -> RoundRecord:
        """Train the ensemble on the labels, or rank without one when they are too few."""
        ids = [id_ for id_ in self.pool.ids if id_ in self.labels]
        needed = minimum_labels(self.settings.model.members)
        if len(ids) < needed:
            self.say(f"{len(ids)} labels, a model needs {needed}: a space-filling batch instead")
            return self._rank_without_model()
        hashes = dict(zip(self.pool.ids, self.pool.hashes, strict=True))
        model = self.settings.model
        try:
            ensemble = train_ensemble(
                self.featuriser,
                [hashes[id_] for id_ in ids],
                self.scale.learned([self.labels[id_].value for id_ in ids]),
                EnsembleSettings(model.strategy, model.head, model.members, self.seed, Schedule(epochs=model.epochs)),
                property=self.settings.campaign.property,
                scale=self.settings.campaign.learned_scale,
                progress=self.say,
            )
        except TooFewLabelsError as error:
            self.say(f"no model can be trained ({error}): a space-filling batch instead")
            return self._rank_without_model()
        held_out = dict(zip(ids, ensemble.held_out.tolist(), strict=True))
        metrics = {**ensemble.metrics, "held_out": held_out}
        return self._finish(RoundState.TRAINED, model=self._keep_model(ensemble), metrics_before=metrics)

    def score(self) -> RoundRecord:
        """Predict the whole pool; the table is an artifact, chunk by chunk, never in memory at once."""
        import pyarrow as pa
        from pyarrow import parquet
        from scipy.stats import norm

        ensemble = self._ensemble()
        schema = pa.schema(
            [("id", pa.string()), ("formula", pa.string())]
            + [(name, pa.float64()) for name in ("mean", "lower", "upper", "learned_mean", "learned_std")]
        )
        path = self.folder / "predictions.parquet"
        hit, expected = self.manifest["hit"], 0.0
        with replaced(path) as partial, parquet.ParquetWriter(partial, schema) as writer:
            for start in range(0, len(self.pool), CHUNK):
                rows = self.pool.rows[start : start + CHUNK]
                table = ensemble.predict(self.featuriser, [key.content_hash for key in rows])
                mean, std = table.total(ensemble.calibration)
                low, high = self.scale.true(mean - Z90 * std), self.scale.true(mean + Z90 * std)
                columns = [
                    [key.material_id for key in rows],
                    [key.formula for key in rows],
                    self.scale.true(mean),
                    low,
                    high,
                    mean,
                    std,
                ]
                writer.write_table(pa.table(columns, schema=schema))
                if hit is not None:
                    z = (float(self.scale.learned(hit)) - mean) / std
                    expected += float(norm.cdf(z if self.settings.campaign.goal == "min" else -z).sum())
                self.say(Count(f"{start + len(rows)} of {len(self.pool)} crystals scored"))
        metrics = {**(self.record.metrics_before or {}), "expected_hit_rate": expected / len(self.pool)}
        artifact = ArtifactRecord(self._relative(path), _sha256(path), len(self.pool))
        return self._finish(RoundState.SCORED, predictions=artifact, metrics_before=metrics)

    def rank(self) -> RoundRecord:
        """Choose the batch among the candidates."""
        campaign, acquisition = self.settings.campaign, self.settings.acquisition
        candidates = self._candidates()
        best = best_value(self.labels, campaign.goal)
        learned_best = None if best is None else float(self.scale.learned(best))
        posterior = _ScoredPosterior(self, acquisition.draws)
        batch = choose_batch(
            posterior,
            goal=campaign.goal,
            acquisition=acquisition.function,
            q=min(self.manifest["batch"], len(candidates)),
            candidates=candidates,
            pending=self.pool.rows_of(self.manifest["pending"]),
            best=learned_best,
            beta=acquisition.beta,
            rng=np.random.default_rng(self.seed),
        )
        for note in batch.notes:
            self.say(note)
        mean, std = posterior.mean_std(batch.rows)
        entries = [
            self._entry(rank, int(row), value, m, s, rule, learned_best)
            for rank, (row, value, m, s, rule) in enumerate(
                zip(batch.rows, batch.values, mean, std, batch.rules, strict=True), start=1
            )
        ]
        return self._keep_batch(entries)

    def queue(self) -> RoundRecord:
        """Put the chosen batch into the queue."""
        entries = [QueueEntryRecord(**entry) for entry in json.loads((self.folder / "batch.json").read_text())]
        self.say(f"{len(entries)} materials queued")
        return self.store.finish_step(self.record.number, RoundState.QUEUED, queue=entries)

    def predicted(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of the whole pool in learned units, from the stored predictions."""
        from pyarrow import parquet

        assert self.record.predictions is not None
        path = self.campaign.directory / self.record.predictions.path
        table = parquet.read_table(path, columns=["learned_mean", "learned_std"])
        return table.column("learned_mean").to_numpy(), table.column("learned_std").to_numpy()

    def _rank_without_model(self) -> RoundRecord:
        candidates = self._candidates()
        rng = np.random.default_rng(self.seed)
        if len(candidates) > _COLD_POOL:
            candidates = np.sort(rng.choice(candidates, _COLD_POOL, replace=False))
        known_ids = {*self.labels, *self.manifest["pending"]}
        known = self.pool.rows_of(known_ids)
        hashes = self.pool.hashes
        rows, distances = space_filling(
            self.featuriser.embeddings([hashes[i] for i in candidates]),
            min(self.manifest["batch"], len(candidates)),
            rng,
            self.featuriser.embeddings([hashes[i] for i in known]) if len(known) else None,
        )
        text = f"no model yet ({len(self.labels)} labels); unlike all known and chosen crystals (space filling)"
        entries = [
            QueueEntryRecord(
                rank=rank,
                material_id=self.pool.rows[candidates[row]].material_id,
                acquisition_value=float(distance),
                reason=text,
                fidelity=self.settings.campaign.fidelity,
            )
            for rank, (row, distance) in enumerate(zip(rows, distances, strict=True), start=1)
        ]
        return self._keep_batch(entries)

    def _entry(
        self, rank: int, row: int, value: float, mean: float, std: float, rule: str, best: float | None
    ) -> QueueEntryRecord:
        section = self.settings.campaign
        logarithmic = self.scale.name == "log10"
        words = reason(
            goal=section.goal,
            rule=rule,
            mean=mean,
            std=std,
            best=best,
            beta=self.settings.acquisition.beta,
            scale=self.scale.name,
            unit=section.unit,
        )
        return QueueEntryRecord(
            rank=rank,
            material_id=self.pool.rows[row].material_id,
            predicted_mean=float(self.scale.true(mean)),
            predicted_lower=float(self.scale.true(mean - Z90 * std)),
            predicted_upper=float(self.scale.true(mean + Z90 * std)),
            log10_mean=mean if logarithmic else None,
            log10_std=std if logarithmic else None,
            acquisition_value=float(value) if math.isfinite(value) else None,
            reason=words,
            fidelity=section.fidelity,
            details={"learned_mean": mean, "learned_std": std, "rule": rule},
        )

    def _candidates(self) -> NDArray[np.int64]:
        path = self.folder / _CANDIDATES
        if not path.is_file() or _sha256(path) != self.manifest["candidates_sha256"]:
            raise CampaignError(
                f"{path} is missing or changed since round {self.record.number} began; restore it from a copy"
            )
        candidates: NDArray[np.int64] = np.load(path)
        if len(candidates) < self.manifest["batch"]:
            batch = self.manifest["batch"]
            self.say(f"only {len(candidates)} candidates are left for a batch of {batch}: all are queued")
        return candidates

    def _check_inputs(self) -> None:
        """Refuse to go on with other weights or another pool than the round began with."""
        number, model = self.record.number, self.settings.model
        if self.featuriser.backbone.sha256 != self.manifest["backbone_sha256"]:
            raise CampaignError(
                f"the backbone {model.backbone!r} is not the one that round {number} began with (SHA-256 "
                f"{self.featuriser.backbone.sha256[:12]}, was {self.manifest['backbone_sha256'][:12]}); restore it"
            )
        if self.pool.sha256 != self.manifest["pool_sha256"]:
            raise CampaignError(
                f"the pool is not the one that round {number} began with; restore the store from a copy"
            )

    def _keep_batch(self, entries: list[QueueEntryRecord]) -> RoundRecord:
        names = [n for n in QueueEntryRecord.__dataclass_fields__ if n not in ("id", "round", "state", "history")]
        plain = [{name: getattr(entry, name) for name in names} for entry in entries]
        write_whole(self.folder / "batch.json", json.dumps(plain, indent=1) + "\n")
        return self._finish(RoundState.RANKED)

    def _keep_model(self, ensemble: Ensemble) -> ModelRecord:
        from engine.learning.storage import save_ensemble

        model_id = f"round-{self.record.number:03d}-{ensemble.data_hash[:8]}"
        folder = self.campaign.artifacts / "models" / model_id
        record = save_ensemble(ensemble, folder, self.campaign.artifacts / "backbones")
        self._model = ensemble
        members = tuple(
            MemberRecord(k, m["seed"], self._relative(folder / m["path"]), m["sha256"], {"held_out_rmse": m["noise"]})
            for k, m in enumerate(record["members"])
        )
        return ModelRecord(
            model_id=model_id,
            stage={"backbone": record["backbone"]["name"], "lineage": ensemble.backbone.card.get("lineage", [])},
            backbone_hash=ensemble.backbone.sha256,
            data_hash=ensemble.data_hash,
            settings={"property": ensemble.property, "scale": ensemble.scale, **record["settings"]},
            seeds=tuple(m["seed"] for m in record["members"]),
            code_version=code_version(),
            metrics=ensemble.metrics,
            members=members,
        )

    def _ensemble(self) -> Ensemble:
        from engine.learning.storage import load_ensemble

        if self._model is None:
            assert self.record.model_id is not None
            self._model = load_ensemble(self.campaign.artifacts / "models" / self.record.model_id)
        return self._model

    def _finish(self, state: RoundState, **made: Any) -> RoundRecord:
        return self.store.finish_step(self.record.number, state, **made)

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.campaign.directory).as_posix()


class _ScoredPosterior:
    """Marginals from the round's stored predictions; joint draws from the ensemble, made only when asked for."""

    def __init__(self, work: _Round, n_draws: int):
        self._work = work
        self._mean, self._std = work.predicted()
        self._asked = n_draws
        self._joint: Any = None
        self.n_rows = len(self._mean)

    @property
    def n_draws(self) -> int:
        """Number of joint draws."""
        return int(self._draws().n_draws)

    def mean_std(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and calibrated standard deviation of these rows, as stored."""
        return self._mean[rows], self._std[rows]

    def draws(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """D x len(rows) joint draws."""
        return self._draws().draws(rows)

    def _draws(self) -> Any:
        if self._joint is None:
            work = self._work
            self._joint = work._ensemble().posterior(work.featuriser, work.pool.hashes, self._asked, work.seed)
        return self._joint


def _settings(settings: Configuration) -> dict[str, Any]:
    """All settings that decide a round's outcome."""
    return settings.model_dump(mode="json", exclude={"dft", "execution", "labeler", "store"})


def _folder(campaign: Campaign, number: int) -> Path:
    return campaign.artifacts / "rounds" / f"{number:03d}"


def _keep_candidates(campaign: Campaign, candidates: NDArray[np.int64]) -> str:
    """Write the rows that the round about to start may queue; their file's SHA-256."""
    path = _folder(campaign, len(campaign.store.rounds()) + 1) / _CANDIDATES
    with replaced(path) as partial, partial.open("wb") as handle:
        np.save(handle, candidates)
    return _sha256(path)


def _hit_threshold(campaign: Campaign, labels: dict[str, LabelRecord]) -> float | None:
    """Find what counts as a hit: as configured, or the best tenth of the labels that the first model learned from."""
    section = campaign.configuration.campaign
    if section.hit is not None:
        return section.hit
    earlier = [r.manifest["hit"] for r in campaign.store.rounds() if r.manifest.get("hit") is not None]
    if earlier:
        return float(earlier[0])
    if len(labels) < MIN_LABELS:
        return None
    values = [label.value for label in labels.values()]
    return float(np.quantile(values, 0.1 if section.goal == "min" else 0.9, method="nearest"))


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
