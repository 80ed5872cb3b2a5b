"""The batch of a round without a model: spread over the pool, or mostly the best of an estimate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from campaigns.models.predictors import is_model, load_predictor
from campaigns.pool.labels import Moment, training_labels
from campaigns.pool.relatives import Relatives
from campaigns.round.rank import limits_of
from db.records import QueueEntryRecord
from engine.acquire.cold_start import Estimate, FirstBatchRequest, first_batch
from engine.acquire.limits import BatchLimits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from campaigns.round.cheaper_fidelity import CheaperFidelity
    from campaigns.round.steps import RoundWork

_POOL = 20_000
"""A first batch is chosen among at most this many candidates, drawn at random from a larger pool."""
_BEST = 10
"""Best candidates by an estimate that are kept of a larger pool, for each that is wanted."""


def first_entries(work: RoundWork, cheaper: CheaperFidelity | None = None) -> list[QueueEntryRecord]:
    """Choose a round's batch without a model, at the campaign's own fidelity or at a cheaper one."""
    settings = work.settings
    candidates = work.candidates() if cheaper is None else cheaper.candidates
    rng = np.random.default_rng(work.seed)
    q = min(work.manifest["batch"], len(candidates)) if cheaper is None else cheaper.first_batch(work)
    prior = _estimate(work, candidates) if settings.acquisition.first_batch == "estimate" else None
    if len(candidates) > _POOL:
        chosen = _sample(work, prior, len(candidates), q, rng)
        candidates, prior = candidates[chosen], None if prior is None else prior[chosen]
    labelled, pending = work.pool.rows_of(work.labels), work.pool.rows_of(work.manifest["pending"])
    if cheaper is not None:
        labelled, pending = work.pool.rows_of(cheaper.labels), cheaper.pending
    known = np.union1d(labelled, pending)
    kind = settings.acquisition.families
    families = None if kind == "none" else work.pool.families(kind)
    embeddings = work.featuriser.embeddings(work.hashes(candidates))
    relatives = Relatives.of(work.store, work.pool)
    limits = BatchLimits(candidates, limits_of(work), relatives=relatives, pending=pending)
    entries: list[QueueEntryRecord] = []
    while len(entries) < q and limits.left:  # once, unless limits forbid some of what was chosen
        left = np.flatnonzero(limits.open)
        estimate = None
        if prior is not None:
            objective = settings.campaign.sought.objective
            estimate = Estimate(prior[left], objective, scale=work.scale.name, unit=settings.campaign.unit)
        request = FirstBatchRequest(
            embeddings[left],
            min(q - len(entries), len(left)),
            known=work.featuriser.embeddings(work.hashes(known)) if len(known) else None,
            families=None if families is None else families[candidates[left]],
            known_families=None if families is None else families[known],
            estimate=estimate,
        )
        batch = first_batch(request, rng)
        for pick, value, words in zip(batch.rows.tolist(), batch.values.tolist(), batch.reasons, strict=True):
            if limits.open[left[pick]]:
                limits.take(int(left[pick]))
                row = int(candidates[left[pick]])
                known = np.append(known, row)
                beside = relatives.words(row, labelled.tolist()) if relatives else ""
                entries.append(_entry(work, cheaper, len(entries) + 1, row, value, words + beside))
    if len(entries) < q:
        work.say(f"limits leave {len(entries)} of {q} rows; relax one for more")
    return entries


def _entry(
    work: RoundWork, cheaper: CheaperFidelity | None, rank: int, row: int, value: float, words: str
) -> QueueEntryRecord:
    fidelity, labels = work.settings.campaign.fidelity, f"{len(work.labels)} labels"
    if cheaper is not None:
        fidelity, labels = cheaper.name, f"{len(cheaper.labels)} labels of {cheaper.name}, which it stands on"
    return QueueEntryRecord(
        rank=rank,
        material_id=work.pool.rows[row].material_id,
        acquisition_value=value,
        expected_cost=work.settings.costs.get(fidelity),
        reason=f"no model yet ({labels}); {words}",
        fidelity=fidelity,
    )


def _estimate(work: RoundWork, candidates: NDArray[np.int64]) -> NDArray[np.float64]:
    """Estimate of each candidate in learned units, NaN where there is none."""
    prior = work.settings.acquisition.first_batch_estimate
    if is_model(work.campaign.directory, prior):
        model = load_predictor(work, prior, work.settings.acquisition.draws, work.seed)
        mean, _ = model.posterior.mean_std(candidates)
        estimate = work.scale.learned(model.scale.true(mean))
    else:
        labels = training_labels(work.store, work.settings, Moment.of(work.manifest), prior)
        ids = [work.pool.rows[row].material_id for row in candidates]
        found = {id_: float(work.scale.learned(labels[id_].value)) for id_ in ids if id_ in labels}
        estimate = np.array([found.get(id_, np.nan) for id_ in ids], dtype=np.float64)
    work.say(f"{np.isfinite(estimate).sum()} of {len(candidates)} candidates have an estimate ({prior})")
    return estimate


def _sample(
    work: RoundWork, prior: NDArray[np.float64] | None, n: int, q: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw positions of a large pool's candidates at random, the best by the estimate always among them."""
    drawn = np.sort(rng.choice(n, _POOL, replace=False))
    if prior is None:
        return drawn
    utility = work.settings.campaign.sought.objective.utility(prior)
    ranked = np.argsort(-np.where(np.isnan(utility), -np.inf, utility), kind="stable")
    return np.union1d(drawn, ranked[: _BEST * q])
