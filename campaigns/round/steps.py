"""One round: embed, train, score, rank, queue; each step is stored when it is finished, and a killed round continues.

A round works from its manifest alone (the pool, labels, settings and seed it started with), so that it gives the same
queue in spite of interruptions and of labels that arrive meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypedDict

from campaigns.exceptions import CampaignError
from campaigns.files import write_whole
from campaigns.models.lineage import answers_seen, keep_model
from campaigns.models.lower_fidelity import (
    is_of_own_property,
    lower_fidelity,
    model_of_property,
    offset_note,
    overlap_note,
)
from campaigns.output import Count
from campaigns.pool.pool import embed_pool
from campaigns.round.cheaper_fidelity import cheaper_fidelities
from campaigns.round.context import RoundContext, file_sha256, stored_predictions
from campaigns.round.first_batch import first_entries
from campaigns.round.intervals import half_width_of
from campaigns.round.manifest import RoundFigures
from campaigns.round.prefilter import FirstPass, first_pass
from campaigns.round.rank import rank
from campaigns.round.score import score_pool
from campaigns.stability.names import with_stability
from db.records import ArtifactRecord, QueueEntryRecord
from db.states import RoundState
from engine.exceptions import AcquisitionError, DivergedError, TooFewLabelsError
from engine.execution import executor
from engine.learning.ensemble.settings import minimum_labels
from engine.learning.ensemble.training import Labels, train_ensemble
from engine.learning.networks.effort import effort_warning

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from campaigns.workspace import Workspace
    from db.records import Json, ModelRecord, RoundRecord
    from engine.execution import Run
    from engine.learning.ensemble.ensemble import Ensemble


class Made(TypedDict, total=False):
    """Fields of a step that the store keeps with the round, as arguments of :meth:`Store.finish_step`."""

    model: ModelRecord
    metrics_before: Json
    predictions: ArtifactRecord
    queue: list[QueueEntryRecord]


@dataclass(frozen=True)
class StepResult:
    """Result of a step."""

    state: RoundState
    """State of the round after the step."""
    fields: Made = field(default_factory=Made)
    ensemble: Ensemble | None = None
    """The model, where the step trained it, so that the next step need not read it."""


class Step(Protocol):
    """A step of a round; called with the round, it does its work and returns its result."""

    after: RoundState
    """State of a round before the step."""
    reads_embeddings: bool

    def __call__(self, context: RoundContext) -> StepResult:
        """Do the step and return its result."""


class Embed:
    """Every candidate gets its embedding."""

    after = RoundState.STARTED
    reads_embeddings = False

    def __call__(self, context: RoundContext) -> StepResult:
        """Report which materials are left out, and embed the others."""
        if unknown := context.pool.unknown:
            shown = ", ".join(f"{key.material_id} ({key.formula})" for key in unknown[:5])
            more = ", ..." if len(unknown) > 5 else ""
            context.say(f"{len(unknown)} materials left out, the backbone lacks an element: {shown}{more}")
        embed_missing(context)
        return StepResult(RoundState.EMBEDDED)


class Train:
    """The ensemble learns the labels; where they are too few, a batch is chosen without one."""

    after = RoundState.EMBEDDED
    reads_embeddings = True

    def __call__(self, context: RoundContext) -> StepResult:
        """Train, and store the model with its cross-validated errors."""
        if (cheaper := next((c for c in cheaper_fidelities(context) if c.is_wanted_first(context)), None)) is not None:
            context.say(
                f"{len(cheaper.labels)} labels of {cheaper.name}, too few to learn from: a batch of these first"
            )
            return keep_batch(context, first_entries(context, cheaper))
        labelled = context.pool.rows.take(context.pool.rows_of(context.labels))
        ids, hashes = labelled.texts("material_id"), labelled.texts("content_hash")
        needed = minimum_labels(context.settings.model.members)
        if len(ids) < needed:
            if (given := model_of_property(context)) is not None:
                return _by_given_model(context, given, len(ids), needed)
            context.say(f"{len(ids)} labels, a model needs {needed}: a space-filling batch instead")
            return keep_batch(context, first_entries(context))
        values = context.scale.learned([context.labels[id_].value for id_ in ids])
        for note in (
            answers_seen(context.backbone, context.settings.campaign.property, hashes),
            effort_warning(context.featuriser, hashes, context.ensemble_settings),
        ):
            if note:
                context.say(note)
        try:
            ensemble = _trained(context, hashes, values)
        except TooFewLabelsError as error:
            context.say(f"no model can be trained ({error}): a space-filling batch instead")
            return keep_batch(context, first_entries(context))
        if note := offset_note(context, ensemble, hashes, values):
            context.say(note)
        held_out = dict(zip(ids, ensemble.held_out.tolist(), strict=True))
        metrics = {**ensemble.metrics, "held_out": held_out}
        metrics = RoundFigures(half_width=half_width_of(context, ensemble, values)).beside(metrics)
        model = keep_model(context, ensemble)
        return StepResult(RoundState.TRAINED, {"model": model, "metrics_before": metrics}, ensemble)


class Score:
    """The whole pool is predicted; the table is an artifact, made part by part, never in memory at once."""

    after = RoundState.TRAINED
    reads_embeddings = True

    def __call__(self, context: RoundContext) -> StepResult:
        """Write the predictions, and count the hits that are expected among them."""
        path = context.folder / "predictions.parquet"
        figures = RoundFigures(expected_hit_rate=score_pool(context, path) / len(context.pool))
        if (passed := first_pass(context)) is not None:
            figures = figures.model_copy(update={"first_pass": _filtered_out(context, passed, path)})
        artifact = ArtifactRecord(context.workspace.relative(path), file_sha256(path), len(context.pool))
        metrics = figures.beside(context.record.metrics_before)
        return StepResult(RoundState.SCORED, {"predictions": artifact, "metrics_before": metrics})


class Rank:
    """The batch is chosen among the candidates."""

    after = RoundState.SCORED
    reads_embeddings = True

    def __call__(self, context: RoundContext) -> StepResult:
        """Choose the batch, and store what later rounds depend on."""
        entries, figures = rank(context)
        return keep_batch(context, entries, {"metrics_before": figures.beside(context.record.metrics_before)})


class Enqueue:
    """The chosen batch enters the queue."""

    after = RoundState.RANKED
    reads_embeddings = False

    def __call__(self, context: RoundContext) -> StepResult:
        """Read the chosen batch."""
        entries = [QueueEntryRecord(**entry) for entry in json.loads((context.folder / "batch.json").read_text())]
        context.say(f"{len(entries)} materials queued")
        return StepResult(RoundState.QUEUED, {"queue": entries})


STEPS: tuple[Step, ...] = (Embed(), Train(), Score(), Rank(), Enqueue())
"""In their order; a round without a model goes from the second to the last."""


def finish_round(workspace: Workspace, record: RoundRecord, say: Callable[[str], None]) -> RoundRecord:
    """Do the steps that a round lacks until its batch is in the queue.

    Raises
    ------
    CampaignError
        If nothing can be queued; the round ends then, and the next begins with the settings of its time.
    """
    return run_steps(RoundContext.of(workspace, record, say)).record


def run_steps(context: RoundContext, until: RoundState = RoundState.QUEUED, *, embedded: bool = False) -> RoundContext:
    """Do the steps after the last finished one, until its state is ``until``; errors as of :func:`finish_round`.

    ``embedded``: this process has checked the embeddings already.
    """
    for step in STEPS:
        if context.record.state is until:
            break
        if context.record.state is not step.after:
            continue
        try:
            if step.reads_embeddings and not embedded:
                embed_missing(context)  # embeddings deleted or damaged since an earlier run
            result = step(context)
        except (AcquisitionError, DivergedError) as error:
            _give_up(context, str(error))
            raise CampaignError(f"round {context.record.number} queues nothing: {error}") from error
        embedded = True
        record = context.store.finish_step(context.record.number, result.state, **result.fields)
        context = context.after(record, result.ensemble)
    return context


def embed_missing(context: RoundContext) -> None:
    """Compute missing embeddings, and damaged ones again."""
    featuriser, pool = context.featuriser, context.pool
    for name in featuriser.discard_broken():
        context.say(f"shard {name} is not what was written: deleted, its crystals are embedded again")
    execution = context.workspace.configuration.execution.settings()
    passed = first_pass(context)
    rows = None if passed is None else passed.full
    total = len(pool) if rows is None else rows.sum()
    for done in embed_pool(context.store, featuriser, pool, execution, rows):
        context.say(Count(f"{done} of {total} crystals embedded"))


def keep_batch(context: RoundContext, entries: list[QueueEntryRecord], fields: Made | None = None) -> StepResult:
    """Write a chosen batch to the round's folder."""
    entries = with_stability(context.store, entries)
    names = [n for n in QueueEntryRecord.__dataclass_fields__ if n not in ("id", "round", "state", "history")]
    plain = [{name: vars(entry)[name] for name in names} for entry in entries]
    write_whole(context.folder / "batch.json", json.dumps(plain, indent=1) + "\n")
    return StepResult(RoundState.RANKED, fields or {})


def _give_up(context: RoundContext, reason: str) -> None:
    """End a round that nothing can be chosen in; the next one begins with the settings of its time."""
    metrics = RoundFigures(refused=reason).beside(context.record.metrics_before)
    context.store.finish_step(context.record.number, RoundState.QUEUED, metrics_before=metrics, queue=[])


def _trained(context: RoundContext, hashes: list[str], values: NDArray[np.float64]) -> Ensemble:
    settings, section = context.ensemble_settings, context.settings.campaign
    lower = lower_fidelity(context)
    with _workers(context) as run:
        return train_ensemble(
            context.featuriser,
            Labels(hashes, values, section.property, section.learned_scale),
            settings,
            lower_fidelity=lower,
            same_property=is_of_own_property(context, lower),
            progress=context.say,
            run=run,
        )


def _by_given_model(context: RoundContext, given: Ensemble, n_labels: int, needed: int) -> StepResult:
    """The round's model is the one that ``[model] lower_fidelity`` names: there are too few labels to learn more."""
    name = context.settings.model.lower_fidelity
    context.say(f"{n_labels} labels, training needs {needed}: {name} predicts the pool")
    if note := overlap_note(context, given):
        context.say(note)
    model = keep_model(context, given)
    figures = RoundFigures(half_width=half_width_of(context, given))
    metrics = figures.beside({**given.metrics, "held_out": {}})
    return StepResult(RoundState.TRAINED, {"model": model, "metrics_before": metrics}, given)


def _workers(context: RoundContext) -> AbstractContextManager[Run | None]:
    """Cluster for the training of networks, where one is set and any are trained."""
    execution = context.workspace.configuration.execution
    if execution.backend == "dask" and context.ensemble_settings.networks:
        return executor(execution.settings())
    return nullcontext()


def _filtered_out(context: RoundContext, passed: FirstPass, path: Path) -> Json:
    """Measure what the prefilter has lost, and report it."""
    mean, std = (values[passed.sample] for values in stored_predictions(path))
    lost = passed.loss(context.settings.campaign.sought.objective.moments(mean, std)[0])
    context.say(
        f"prefilter: {lost['lost']} of the best {lost['best']} of {lost['sampled']} candidates drawn at random "
        "were filtered out"
    )
    return lost
