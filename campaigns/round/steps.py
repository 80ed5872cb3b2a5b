"""One round: embed, train, score, rank, queue; each step is stored when it is finished, and a killed round goes on.

A round works from its manifest alone (the pool, labels, settings and seed it started with), so that it gives the same
queue however often it is interrupted and whatever arrives meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from campaigns.configuration import Configuration, round_settings
from campaigns.exceptions import CampaignError
from campaigns.files import replaced, write_whole
from campaigns.goals import Scale
from campaigns.models.lineage import ROUND, answers_seen, keep_ancestors, recorded_files
from campaigns.models.predictors import checked_models, is_model
from campaigns.models.prior import check_prior, lower_fidelity
from campaigns.output import Count
from campaigns.pool.labels import Moment, training_labels
from campaigns.pool.pool import Pool, embed_pool, queued_ids
from campaigns.round.cheaper_fidelity import cheaper_fidelity, queued_cheaper
from campaigns.round.first_batch import first_entries
from campaigns.round.prefilter import FirstPass, first_pass
from campaigns.round.rank import rank
from campaigns.round.score import finite_table, score_pool
from campaigns.round.stopping import core_hours_left
from campaigns.version import code_version
from db.records import ArtifactRecord, MemberRecord, ModelRecord, QueueEntryRecord, RoundRecord
from db.states import RoundState
from engine.exceptions import AcquisitionError, DivergedError, EngineError, TooFewLabelsError
from engine.execution import executor
from engine.learning.backbones.stack import make_featuriser
from engine.learning.ensemble.ensemble import AUTO, FROZEN, MIN_LABELS, EnsembleSettings, minimum_labels, train_ensemble
from engine.learning.networks.effort import effort_warning
from engine.learning.networks.finetune import check_start, fine_tuning
from engine.metrics.calibration import Z90
from engine.metrics.conformal import split_quantile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from campaigns.campaign import Campaign
    from db.records import LabelRecord
    from db.store import Store
    from engine.execution import Run
    from engine.learning.backbones.stack import AnyBackbone
    from engine.learning.ensemble.ensemble import Ensemble, MemberTable

LEVEL = 0.9
_CANDIDATES = "candidates.npy"


def open_round(campaign: Campaign, batch: int) -> RoundRecord:
    """Start the next round: fix in its manifest all that decides its outcome.

    Whatever its settings make impossible is refused here, because a round that has begun keeps its settings.
    """
    settings = campaign.configuration
    store = campaign.store
    backbone = campaign.backbone(settings.model.backbone)
    pool = Pool.of(store, backbone.elements)
    if settings.model.strategy not in (FROZEN, AUTO):
        check_start(backbone, settings.model.strategy)
    labels = training_labels(store, settings)
    Scale(settings.campaign.learned_scale).learned([label.value for label in labels.values()])
    pending, spent = queued_ids(store, settings.campaign.fidelity)
    known = [objective.property for objective in settings.objectives if not objective.model]
    candidates = pool.candidates(store, settings.constraints, {*labels, *pending, *spent}, known)
    _check_objectives(settings, pool, store, labels, candidates)
    _check_first_batch(campaign)
    check_prior(campaign, backbone, pool)
    manifest = {
        "settings": _settings(settings),
        "materials": len(pool) + len(pool.unknown),
        "pool_sha256": pool.sha256,
        "candidates": len(candidates),
        "candidates_sha256": _keep_candidates(campaign, candidates),
        "labels": len(labels),
        **Moment.now(store).to_manifest(),
        "failures_up_to": max((f.id or 0 for f in store.failures(settings.campaign.property)), default=0),
        "models": checked_models(campaign.directory, settings),
        "core_hours_left": core_hours_left(campaign),
        "backbone_sha256": backbone.sha256,
        "backbones": [part.sha256 for part in backbone.parts],
        "code_version": code_version(),
        "batch": batch,
        "pending": sorted(pending),
        "hit": _hit_threshold(campaign, labels),
        **queued_cheaper(campaign, labels),
    }
    return store.start_round(manifest)


def finish_round(campaign: Campaign, record: RoundRecord, say: Callable[[str], None]) -> RoundRecord:
    """Do the steps that ``record`` lacks until its batch is in the queue."""
    work = RoundWork(campaign, record, say)
    while work.record.state is not RoundState.QUEUED:
        try:
            work.record = work.next_step()
        except (AcquisitionError, DivergedError) as error:
            work.give_up(error)
            raise CampaignError(f"round {record.number} queues nothing: {error}") from error
    return work.record


def changed_settings(settings: Configuration, record: RoundRecord) -> list[str]:
    """Name the settings (``[model] head``) that are not those a round began with."""
    began, now = _settings(round_settings(record)), _settings(settings)  # read again: missing keys have their defaults
    changed = [
        f"[{section}] {key}"
        for section, keys in now.items()
        if isinstance(keys, dict)
        for key in dict.fromkeys([*keys, *began[section]])
        if began[section].get(key) != keys.get(key)
    ]
    return changed + ["[[objectives]]"] * (began["objectives"] != now["objectives"])


class RoundWork:
    """A round under way: its inputs as its manifest fixes them, and its steps."""

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
        self.pool = Pool.of(self.store, backbone.elements, self.manifest["materials"])
        self.labels = training_labels(self.store, self.settings, Moment.of(self.manifest))
        self.seed = int(np.random.SeedSequence([section.seed, record.number]).generate_state(1)[0])
        self.featuriser = make_featuriser(
            backbone,
            campaign.features,
            keep_graphs=self._ensemble_settings(backbone).networks,
            precision=self.settings.model.embeddings,
        )
        self.folder = _folder(campaign, record.number)
        self._model: Ensemble | None = None
        self._noted: set[str] = set()
        self._embedded = False
        self._check_inputs()

    def next_step(self) -> RoundRecord:
        """Do the step after the last finished one."""
        if self.record.state not in (RoundState.STARTED, RoundState.RANKED):
            self._embed_missing()  # what was deleted or damaged since
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
        self._embed_missing()
        return self._finish(RoundState.EMBEDDED)

    def train(self) -> RoundRecord:
        """Train the ensemble on the labels, or rank without one when they are too few."""
        cheaper = cheaper_fidelity(self)
        if cheaper and cheaper.is_wanted_first(self):
            self.say(f"{len(cheaper.labels)} labels of {cheaper.name}, too few to learn from: a batch of these first")
            return self._keep_batch(first_entries(self, cheaper))
        labelled = self.pool.rows.take(self.pool.rows_of(self.labels))
        ids = labelled.texts("material_id")
        needed = minimum_labels(self.settings.model.members)
        if len(ids) < needed:
            self.say(f"{len(ids)} labels, a model needs {needed}: a space-filling batch instead")
            return self._rank_without_model()
        values = self.scale.learned([self.labels[id_].value for id_ in ids])
        settings = self._ensemble_settings(self.featuriser.backbone)
        hashes = labelled.texts("content_hash")
        for note in (
            answers_seen(self.featuriser.backbone, self.settings.campaign.property, hashes),
            effort_warning(self.featuriser, hashes, settings),
        ):
            if note:
                self.say(note)
        try:
            with self._workers(settings) as run:
                ensemble = train_ensemble(
                    self.featuriser,
                    hashes,
                    values,
                    settings,
                    property=self.settings.campaign.property,
                    scale=self.settings.campaign.learned_scale,
                    lower_fidelity=lower_fidelity(self),
                    progress=self.say,
                    run=run,
                )
        except TooFewLabelsError as error:
            self.say(f"no model can be trained ({error}): a space-filling batch instead")
            return self._rank_without_model()
        held_out = dict(zip(ids, ensemble.held_out.tolist(), strict=True))
        metrics = {**ensemble.metrics, "held_out": held_out}
        if self.settings.model.intervals == "conformal":
            metrics["half_width"] = self._half_width(ensemble, values)
        return self._finish(RoundState.TRAINED, model=self._keep_model(ensemble), metrics_before=metrics)

    def score(self) -> RoundRecord:
        """Predict the whole pool; the table is an artifact, part by part, never in memory at once."""
        path = self.folder / "predictions.parquet"
        expected = score_pool(self, path)
        metrics = {**(self.record.metrics_before or {}), "expected_hit_rate": expected / len(self.pool)}
        if self.first_pass is not None:
            metrics["first_pass"] = self._filtered_out(self.first_pass, path)
        artifact = ArtifactRecord(self._relative(path), _sha256(path), len(self.pool))
        return self._finish(RoundState.SCORED, predictions=artifact, metrics_before=metrics)

    def rank(self) -> RoundRecord:
        """Choose the batch among the candidates."""
        entries, kept = rank(self)
        return self._keep_batch(entries, metrics_before={**(self.record.metrics_before or {}), **kept})

    def queue(self) -> RoundRecord:
        """Put the chosen batch into the queue."""
        entries = [QueueEntryRecord(**entry) for entry in json.loads((self.folder / "batch.json").read_text())]
        self.say(f"{len(entries)} materials queued")
        return self.store.finish_step(self.record.number, RoundState.QUEUED, queue=entries)

    def predicted(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of the whole pool in learned units, from the stored predictions."""
        assert self.record.predictions is not None
        return self._stored(self.campaign.directory / self.record.predictions.path)

    def give_up(self, error: EngineError) -> None:
        """End a round that nothing can be chosen in; the next one begins with the settings of its time."""
        metrics = {**(self.record.metrics_before or {}), "refused": str(error)}
        self.store.finish_step(self.record.number, RoundState.QUEUED, metrics_before=metrics, queue=[])

    def entry(
        self, rank: int, row: int, mean: float, std: float, value: float, words: str, details: dict[str, Any]
    ) -> QueueEntryRecord:
        """Write a chosen row of the pool, its prediction in learned units, as a queue entry."""
        logarithmic = self.scale.name == "log10"
        half = self.half_width * std
        return QueueEntryRecord(
            rank=rank,
            material_id=self.pool.rows[row].material_id,
            predicted_mean=float(self.scale.true(mean)),
            predicted_lower=float(self.scale.true(mean - half)),
            predicted_upper=float(self.scale.true(mean + half)),
            log10_mean=float(mean) if logarithmic else None,
            log10_std=float(std) if logarithmic else None,
            acquisition_value=float(value) if math.isfinite(value) else None,
            reason=words,
            fidelity=self.settings.campaign.fidelity,
            details=details,
        )

    def hashes(self, rows: NDArray[np.int64]) -> list[str]:
        """Content hashes of these rows of the pool."""
        return self.pool.rows.take(rows).texts("content_hash")

    @cached_property
    def first_pass(self) -> FirstPass | None:
        """What a cheap model keeps of the pool, where that is asked for."""
        return first_pass(self) if self.settings.acquisition.first_pass else None

    def promising(self) -> NDArray[np.int64]:
        """Candidates that the first pass has kept; all of them where there is none."""
        candidates = self.candidates()
        return candidates if self.first_pass is None else candidates[self.first_pass.passed[candidates]]

    @property
    def half_width(self) -> float:
        """Of a 90 % interval, in predicted standard deviations."""
        return float((self.record.metrics_before or {}).get("half_width", Z90))

    def candidates(self) -> NDArray[np.int64]:
        """Rows that may be queued, as they were when the round began."""
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

    def members(self, hashes: Sequence[str]) -> MemberTable:
        """Predict crystals; a member that predicts what is not finite is left out, and that is said once.

        Raises
        ------
        AcquisitionError
            If that leaves fewer than three.
        """
        table, notes = finite_table(self.ensemble(), self.featuriser, hashes)
        self.note(notes)
        return table

    def note(self, notes: Sequence[str]) -> None:
        """Say what deserves saying, once."""
        for note in set(notes) - self._noted:
            self.say(note)
        self._noted |= set(notes)

    def ensemble(self) -> Ensemble:
        """Give the round's model, read once."""
        from engine.learning.ensemble.storage import load_ensemble

        if self._model is None:
            assert self.record.model_id is not None
            self._model = load_ensemble(self.campaign.artifacts / "models" / self.record.model_id)
        return self._model

    def _embed_missing(self) -> None:
        """Embed what has no embedding yet, damaged ones again; looked after once in a process."""
        if self._embedded:
            return
        for name in self.featuriser.discard_broken():
            self.say(f"shard {name} is not what was written: deleted, its crystals are embedded again")
        execution = self.campaign.configuration.execution.settings()
        rows = None if self.first_pass is None else self.first_pass.full
        total = len(self.pool) if rows is None else rows.sum()
        for done in embed_pool(self.store, self.featuriser, self.pool, execution, rows):
            self.say(Count(f"{done} of {total} crystals embedded"))
        self._embedded = True

    def _stored(self, path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        from pyarrow import parquet

        table = parquet.read_table(path, columns=["learned_mean", "learned_std"])
        return table.column("learned_mean").to_numpy(), table.column("learned_std").to_numpy()

    def _filtered_out(self, first: FirstPass, path: Path) -> dict[str, Any]:
        """Measure what the first pass has lost, and say it."""
        mean, std = (values[first.sample] for values in self._stored(path))
        lost = first.loss(self.settings.campaign.sought.objective.moments(mean, std)[0])
        self.say(
            f"first pass: {lost['lost']} of the best {lost['best']} of {lost['sampled']} candidates drawn at random "
            "were filtered out"
        )
        return lost

    def _ensemble_settings(self, backbone: AnyBackbone) -> EnsembleSettings:
        model = self.settings.model
        schedule = fine_tuning(model.epochs)
        settings = EnsembleSettings(model.strategy, model.head, model.members, self.seed, schedule, trees=model.trees)
        return settings.resolved(len(self.pool.rows_of(self.labels)), backbone)

    def _workers(self, settings: EnsembleSettings) -> AbstractContextManager[Run | None]:
        """Give the cluster that networks train on, where one is set and any are trained."""
        execution = self.campaign.configuration.execution
        if execution.backend == "dask" and settings.networks:
            return executor(execution.settings())
        return nullcontext()

    def _rank_without_model(self) -> RoundRecord:
        return self._keep_batch(first_entries(self))

    def _half_width(self, ensemble: Ensemble, values: NDArray[np.float64]) -> float:
        """Count the standard deviations that 90 % of the held-out labels lie within, as conformal intervals do."""
        mean, std = ensemble.held_out.T
        try:
            return split_quantile(values - mean, LEVEL, std)
        except TooFewLabelsError as error:
            self.say(f"Gaussian intervals in this round: {error}")
            return Z90

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

    def _keep_batch(self, entries: list[QueueEntryRecord], **kept: Any) -> RoundRecord:
        names = [n for n in QueueEntryRecord.__dataclass_fields__ if n not in ("id", "round", "state", "history")]
        plain = [{name: getattr(entry, name) for name in names} for entry in entries]
        write_whole(self.folder / "batch.json", json.dumps(plain, indent=1) + "\n")
        return self._finish(RoundState.RANKED, **kept)

    def _keep_model(self, ensemble: Ensemble) -> ModelRecord:
        from engine.learning.ensemble.storage import save_ensemble

        model_id = f"round-{self.record.number:03d}-{ensemble.data_hash[:8]}"
        folder = self.campaign.artifacts / "models" / model_id
        shutil.rmtree(folder, ignore_errors=True)  # what a killed run left: its files may be others' too
        record = save_ensemble(ensemble, folder, self.campaign.artifacts / "backbones")
        self._model = ensemble
        members = tuple(
            MemberRecord(k, m["seed"], self._relative(folder / m["path"]), m["sha256"], {"held_out_rmse": m["noise"]})
            for k, m in enumerate(record["members"])
        )
        stands_on = keep_ancestors(self, ensemble, folder)
        return ModelRecord(
            model_id=model_id,
            parent_id=stands_on[0],
            stage={
                "kind": ROUND,
                "backbone": record["backbone"]["name"],
                "stands_on": stands_on,
                "files": recorded_files(folder, self._relative(folder)),
                "lineage": ensemble.backbone.card.get("lineage", []),
            },
            backbone_hash=ensemble.backbone.sha256,
            data_hash=ensemble.data_hash,
            settings={"property": ensemble.property, "scale": ensemble.scale, **record["settings"]},
            seeds=tuple(m["seed"] for m in record["members"]),
            code_version=code_version(),
            metrics=ensemble.metrics,
            members=members,
        )

    def _finish(self, state: RoundState, **made: Any) -> RoundRecord:
        return self.store.finish_step(self.record.number, state, **made)

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.campaign.directory).as_posix()


def _check_objectives(
    settings: Configuration, pool: Pool, store: Store, labels: Mapping[str, LabelRecord], candidates: NDArray[np.int64]
) -> None:
    """Refuse known objectives without a logarithm where it is needed, or that no labelled material has."""
    sections = [section for section in settings.objectives if not section.model]
    known = pool.known(store, [section.property for section in sections], "[[objectives]]")
    labelled = pool.rows_of(labels)
    for section in sections:
        values = known[section.property]
        Scale(section.learned_scale).learned(values[candidates])
        if len(labelled) and np.isnan(values[labelled]).all():
            raise CampaignError(
                f"[[objectives]]: none of the {len(labelled)} labelled materials has {section.property}, and what "
                "improves on them cannot be told; add it to some of them, or give a model of it"
            )


def _check_first_batch(campaign: Campaign) -> None:
    """Refuse an estimate for a first batch that is neither a model nor a fidelity of labels."""
    section, acquisition = campaign.configuration.campaign, campaign.configuration.acquisition
    if acquisition.first_batch != "prior" or is_model(campaign.directory, acquisition.prior):
        return
    if not campaign.store.labels(section.property, acquisition.prior):
        known = campaign.store.fidelities(section.property)
        raise CampaignError(
            f"[acquisition] prior = {acquisition.prior!r} is neither a folder that `train` wrote nor a fidelity of "
            f"labels of {section.property} (there are: {', '.join(known) or 'none'}); import some, or change it"
        )


def _settings(settings: Configuration) -> dict[str, Any]:
    """All settings that decide a round's outcome."""
    return settings.model_dump(mode="json", exclude={"dft", "execution", "labeler", "stopping", "store"})


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
    if section.window is not None:
        return section.window[0]
    earlier = [r.manifest["hit"] for r in campaign.store.rounds() if r.manifest.get("hit") is not None]
    if earlier:
        return float(earlier[0])
    if len(labels) < MIN_LABELS:
        return None
    return section.sought.best_tenth([label.value for label in labels.values()])


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
