"""Batch of a round without a model: spread over the pool, or mostly the best of an estimate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from campaigns.models.predictors import is_model, load_predictor
from campaigns.pool.labels import training_labels
from campaigns.pool.relatives import Relatives
from campaigns.round.rank import limits_of, round_costs
from campaigns.round.sizes import FirstBatchPrices
from db.records import QueueEntryRecord
from engine.acquire.cold_start import Estimate, FirstBatchRequest, first_batch
from engine.acquire.limits import BatchLimits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from campaigns.round.cheaper_fidelity import CheaperFidelity
    from campaigns.round.context import RoundContext

_POOL = 20_000
"""A first batch is chosen among at most this many candidates, drawn at random from a larger pool."""
_BEST = 10
"""Best candidates by an estimate that are kept of a larger pool, for each entry of the batch."""


def first_entries(context: RoundContext, cheaper: CheaperFidelity | None = None) -> list[QueueEntryRecord]:
    """Choose a round's batch without a model, at the target fidelity or at a lower one."""
    settings = context.settings
    candidates = context.candidates if cheaper is None else cheaper.candidates
    rng = np.random.default_rng(context.seed)
    q = min(context.manifest.batch, len(candidates)) if cheaper is None else cheaper.first_batch(context)
    prior = _estimate(context, candidates) if settings.acquisition.first_batch == "estimate" else None
    if len(candidates) > _POOL:
        chosen = _sample(context, prior, len(candidates), q, rng)
        candidates, prior = candidates[chosen], None if prior is None else prior[chosen]
    labelled, pending = context.pool.rows_of(context.labels), context.pool.rows_of(context.manifest.pending)
    if cheaper is not None:
        labelled, pending = context.pool.rows_of(cheaper.labels), cheaper.pending
    known = np.union1d(labelled, pending)
    kind = settings.acquisition.families
    families = None if kind == "none" else context.pool.families(kind)
    embeddings = context.featuriser.embeddings(context.hashes(candidates))
    relatives = Relatives.of(context.store, context.pool)
    limits = BatchLimits(candidates, limits_of(context), relatives=relatives, pending=pending)
    prices = FirstBatchPrices(context, round_costs(context)) if cheaper is None and context.manifest.dft else None
    entries: list[QueueEntryRecord] = []
    while len(entries) < q and limits.left:  # once, unless limits exclude some of the choice
        left = np.flatnonzero(limits.open)
        estimate = None
        if prior is not None:
            objective = settings.campaign.sought.objective
            estimate = Estimate(prior[left], context.scale.name, settings.campaign.unit, objective)
        request = FirstBatchRequest(
            embeddings[left],
            min(q - len(entries), len(left)),
            known=context.featuriser.embeddings(context.hashes(known)) if len(known) else None,
            families=None if families is None else families[candidates[left]],
            known_families=None if families is None else families[known],
            estimate=estimate,
        )
        batch = first_batch(request, rng)
        for pick, value, words in zip(batch.rows.tolist(), batch.values.tolist(), batch.reasons, strict=True):
            if not limits.open[left[pick]]:
                continue
            row = int(candidates[left[pick]])
            if prices is not None and not prices.take(row, candidates, limits):
                continue
            limits.take(int(left[pick]))
            known = np.append(known, row)
            beside = relatives.words(row, labelled.tolist()) if relatives else ""
            entries.append(_entry(context, cheaper, len(entries) + 1, row, value, words + beside))
    if prices is not None:
        entries = prices.priced(entries)
    if len(entries) < q:
        context.say(f"limits leave {len(entries)} of {q} rows; relax one for more")
    return entries


def _entry(
    context: RoundContext, cheaper: CheaperFidelity | None, rank: int, row: int, value: float, words: str
) -> QueueEntryRecord:
    fidelity, labels = context.settings.campaign.fidelity, f"{len(context.labels)} labels"
    if cheaper is not None:
        fidelity, labels = cheaper.name, f"{len(cheaper.labels)} labels of {cheaper.name}, which it stands on"
    return QueueEntryRecord(
        rank=rank,
        material_id=context.pool.rows[row].material_id,
        acquisition_value=value,
        expected_cost=context.settings.costs.get(fidelity),
        reason=f"no model yet ({labels}); {words}",
        fidelity=fidelity,
    )


def _estimate(context: RoundContext, candidates: NDArray[np.int64]) -> NDArray[np.float64]:
    """Estimate of each candidate in learned units, NaN where there is none."""
    prior = context.settings.acquisition.first_batch_estimate
    if is_model(context.workspace.directory, prior):
        model = load_predictor(context, prior, context.settings.acquisition.draws, context.seed)
        mean, _ = model.posterior.mean_std(candidates)
        estimate = context.scale.learned(model.scale.true(mean))
    else:
        labels = training_labels(context.store, context.settings, context.manifest.moment, prior)
        ids = [context.pool.rows[row].material_id for row in candidates]
        found = {id_: float(context.scale.learned(labels[id_].value)) for id_ in ids if id_ in labels}
        estimate = np.array([found.get(id_, np.nan) for id_ in ids], dtype=np.float64)
    context.say(f"{np.isfinite(estimate).sum()} of {len(candidates)} candidates have an estimate ({prior})")
    return estimate


def _sample(
    context: RoundContext, prior: NDArray[np.float64] | None, n: int, q: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw positions of a large pool's candidates at random, the best by the estimate always among them."""
    drawn = np.sort(rng.choice(n, _POOL, replace=False))
    if prior is None:
        return drawn
    utility = context.settings.campaign.sought.objective.utility(prior)
    ranked = np.argsort(-np.where(np.isnan(utility), -np.inf, utility), kind="stable")
    return np.union1d(drawn, ranked[: _BEST * q])
