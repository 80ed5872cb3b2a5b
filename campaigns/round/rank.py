"""The batch of a round: a request made from ``campaign.toml``, and why each row was chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from campaigns.configuration import DftSection
from campaigns.models.predictors import FewerDraws, load_predictor
from campaigns.pool.costs import Costs
from campaigns.pool.labels import best_value
from campaigns.pool.relatives import Relatives
from campaigns.round.fidelity_choice import FidelityChoice
from campaigns.round.further_objectives import FurtherObjective, further_objectives, with_known_objectives
from campaigns.round.manifest import RoundFigures
from campaigns.round.prefilter import promising
from campaigns.round.score import finite_predictions
from campaigns.round.scored_posterior import ScoredPosterior
from campaigns.round.sizes import choose_within_limits
from campaigns.round.stopping import best_found
from db.records import QueueEntryRecord
from db.states import FailureKind, FailureReason
from engine.acquire.batch import Batch, choose_batch
from engine.acquire.explanation import ChosenRow, ReasonContext
from engine.acquire.objectives import ChanceConstraint
from engine.acquire.pool import Criterion
from engine.acquire.portfolio import updated_gains
from engine.acquire.reasons import reason
from engine.acquire.request import BatchRequest, FunctionOptions, scheduled_beta
from engine.exceptions import AcquisitionError
from engine.metrics.extrapolation import TrainingDistance
from engine.metrics.spread import decompose

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from campaigns.round.context import RoundContext
    from db.records import FailureRecord, LabelRecord
    from engine.acquire.limits import GroupLimits

_BLOCK_ROWS = 65_536
_BROKE = (
    "no candidate fits the {:,.0f} core-hours that are left of the budget, the cheapest takes about {:,.0f}; raise "
    "[campaign] budget_core_hours"
)


def rank(context: RoundContext) -> tuple[list[QueueEntryRecord], RoundFigures]:
    """Choose a round's batch with its model; returns the entries, and figures to store with the round.

    Raises
    ------
    AcquisitionError
        If a request cannot be met, such as a chance constraint that no candidate is likely to meet.
    """
    return _Ranking(context).entries()


class _Ranking:
    def __init__(self, context: RoundContext):
        self.context = context
        self.settings = context.settings
        self.acquisition = context.settings.acquisition
        self.goal = context.settings.campaign.sought
        self.candidates = promising(context)
        self.pending = context.pool.rows_of(context.manifest.pending)
        self.observed = context.pool.rows_of(context.labels)
        self.relatives = Relatives.of(context.store, context.pool)
        self.posterior = ScoredPosterior(context, self.acquisition.draws)
        self.cheaper = FidelityChoice.of(context, self.posterior)
        best = best_value(context.labels, self.goal)
        self.best = None if best is None else float(context.scale.learned(best))
        self.kept: dict[str, Any] = {}
        self._pool_cost: NDArray[np.float64] | None = None
        self.costs = round_costs(context)

    def entries(self) -> tuple[list[QueueEntryRecord], RoundFigures]:
        """Choose the batch, and describe its rows."""
        open_rows = np.union1d(self.candidates, self.pending)
        self.kept["best_found"] = best_found(self.posterior, open_rows, self.best, self.goal.objective)
        feasible = self._feasibility()
        extras = further_objectives(self.context, self.posterior.n_draws)
        self._pool_cost, left = self._pool_costs()
        if self._pool_cost is not None and left is not None:
            self.candidates = self._cheap_enough(self._pool_cost, left)
        batch, fits = choose_within_limits(
            lambda left_out: self._choose(feasible, extras, left, left_out), self.candidates, self.context, self.costs
        )
        batch, costs = self._affordable(batch if fits.all() else _part(batch, fits))
        for note in batch.notes:
            self.context.say(note)
        return self._describe(batch, costs, feasible, extras), RoundFigures(**self.kept)

    # -- the request --------------------------------------------------------------------------------------------------

    def _choose(
        self,
        feasible: NDArray[np.float64] | None,
        extras: Sequence[FurtherObjective],
        left: float | None,
        left_out: NDArray[np.int64],
    ) -> Batch:
        """Choose a batch without some rows of the pool; ``left`` are the core-hours that are left of a budget."""
        acquisition, context, costs = self.acquisition, self.context, self._pool_cost
        candidates = np.setdiff1d(self.candidates, left_out) if len(left_out) else self.candidates
        request: dict[str, Any] = {
            "acquisition": acquisition.function,
            "q": min(context.manifest.batch, len(candidates)),
            "candidates": candidates,
            "pending": self.pending,
            "rng": np.random.default_rng(context.seed),
            "scale": context.scale.name,
            "feasibility": feasible,
            "cost": costs if acquisition.by_cost else None,
            "budget": left if acquisition.by_cost else None,
            "limits": limits_of(context),
            "relatives": self.relatives,
            "diverse": acquisition.diversity,
            "embeddings": lambda rows: context.featuriser.embeddings(context.hashes(rows)),
        }
        criterion, threshold = Criterion(self.posterior, self.goal.objective), acquisition.threshold
        if acquisition.is_pareto:
            criteria = [criterion, *(extra.criterion for extra in extras)]
            fewest = min(c.posterior.n_draws for c in criteria)
            alike = [Criterion(FewerDraws(c.posterior, fewest), c.objective) for c in criteria]
            return choose_batch(alike, BatchRequest(observed=with_known_objectives(context, self.observed), **request))
        if self.cheaper is not None:
            request |= self.cheaper.widened(request)
            request["candidates"] = self.cheaper.without(request["candidates"], left_out)
            criterion = Criterion(self.cheaper.posterior, self.goal.objective)
        options = FunctionOptions(
            beta=self._beta(len(candidates)),
            threshold=None if threshold is None else float(context.scale.learned(threshold)),
            share=acquisition.share,
            epsilon=acquisition.epsilon,
            portfolio=self._gains() if acquisition.function == "portfolio" else None,
        )
        whole = BatchRequest(best=self.best, observed=self.observed, options=options, **request)
        return choose_batch((criterion,), whole)

    def _beta(self, candidates: int) -> float:
        beta = self.acquisition.beta
        return scheduled_beta(candidates, self.context.record.number) if beta == "schedule" else float(beta)

    def _feasibility(self) -> NDArray[np.float64] | None:
        """Probability that each candidate is useful (1 elsewhere): constraints met and calculation successful."""
        context, factors = self.context, []
        if self.acquisition.feasibility and (success := self._success()) is not None:
            factors.append(success)
        for seed, (name, limits) in enumerate(self.settings.constraints.predicted.items(), start=1):
            model = load_predictor(context, limits.model, self.acquisition.draws, context.seed + seed)
            low, high = (None if end is None else float(model.scale.learned(end)) for end in (limits.min, limits.max))
            chance = ChanceConstraint(name, low, high, limits.at_least)
            factors.append(chance.probability(model.posterior, self.candidates))
        if not factors:
            return None
        feasible = np.ones(len(context.pool))
        feasible[self.candidates] = np.prod(factors, axis=0)
        return feasible

    def _success(self) -> NDArray[np.float64] | None:
        """Probability that each candidate's calculation succeeds, where failures can be predicted."""
        from engine.learning.ensemble.feasibility import Feasibility

        context = self.context
        failed = {
            f.material_id
            for f in context.store.failures(self.settings.campaign.property, current_only=False)
            if self._teaches(f)
        } - context.labels.keys()
        failures = context.pool.rows_of(failed)
        if not len(failures):
            return None
        rows = np.concatenate([self.observed, failures])
        outcome = np.arange(len(rows)) >= len(self.observed)
        found = Feasibility.fit(self._composition(rows), outcome, context.seed)
        context.say(str(found))
        self.kept["feasibility"] = {name: v for name, v in found.to_dict().items() if name != "weights"}
        if not found.discriminates:
            return None
        parts = (self.candidates[start : start + _BLOCK_ROWS] for start in range(0, len(self.candidates), _BLOCK_ROWS))
        return np.concatenate([found.success(self._composition(part)) for part in parts])

    def _teaches(self, failure: FailureRecord) -> bool:
        """Whether a failure is information on similar crystals: of the crystal, and known when the round began.

        A failure that was voided since the round began still counts in this round.
        """
        manifest, reason = self.context.manifest, failure.reason
        if failure.fidelity != self.settings.campaign.fidelity or (failure.id or 0) > manifest.failures_up_to:
            return False
        if failure.voiding is not None and failure.voiding <= manifest.voidings_up_to:
            return False
        return reason.kind is FailureKind.CRYSTAL and reason is not FailureReason.REJECTED

    def _composition(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        featuriser = self.context.featuriser
        return featuriser.embeddings(self.context.hashes(rows))[:, featuriser.backbone.groups["composition"]]

    def _gains(self) -> dict[str, float]:
        """Gains of the portfolio's functions from the labels that each acquired in earlier rounds."""
        context = self.context
        gains = dict.fromkeys(self.acquisition.portfolio, 0.0)
        asked = {e.material_id: e for e in context.store.queue() if (e.round or 0) < context.record.number}
        utility = {id_: float(self.goal.utility(label.value)) for id_, label in context.labels.items()}
        for record in context.store.rounds()[: context.record.number - 1]:
            mine = [e for e in asked.values() if e.round == record.number and e.material_id in utility]
            earlier = [u for id_, u in utility.items() if id_ not in asked or (asked[id_].round or 0) < record.number]
            rules = [str(e.details.get("rule")) for e in mine]
            if RoundFigures.of(record).portfolio is not None and mine and earlier:
                gains = updated_gains(gains, rules, _array(utility[e.material_id] for e in mine), _array(earlier))
        self.kept["portfolio"] = gains
        return gains

    # -- core-hours ---------------------------------------------------------------------------------------------------

    def _pool_costs(self) -> tuple[NDArray[np.float64] | None, float | None]:
        """Expected cost of each candidate (1 elsewhere) and core-hours left, where the settings use them."""
        context, left = self.context, self.context.manifest.core_hours_left
        if not self.acquisition.by_cost and left is None:
            return None, None
        context.say(str(self.costs))
        if left is not None and not self.costs.in_core_hours:
            own = self.settings.campaign.fidelity
            context.say(
                f"the budget of core-hours cannot limit this batch; give [costs] {own} = CORE_HOURS, or import labels "
                "with their cost"
            )
            left = None
        costs = np.ones(len(context.pool))
        costs[self.candidates] = self.costs.estimated([context.pool.rows[row] for row in self.candidates])
        return costs, left

    def _cheap_enough(self, costs: NDArray[np.float64], left: float) -> NDArray[np.int64]:
        mine = costs[self.candidates]
        fits = mine <= left
        if not fits.any():
            raise AcquisitionError(_BROKE.format(left, mine.min()))
        if not fits.all():
            self.context.say(f"{fits.sum()} of {len(fits)} candidates fit the {left:,.0f} core-hours that are left")
        return self.candidates[fits]

    def _affordable(self, batch: Batch) -> tuple[Batch, list[float | None]]:
        """Cost of each row; rows beyond the core-hours that are left are excluded."""
        left = self.context.manifest.core_hours_left
        if not self.costs.in_core_hours:
            return batch, [None] * len(batch.rows)
        costs = self._counted(batch.rows)
        fits, spent = [], 0.0
        for cost in costs:
            fits.append(left is None or spent + cost <= left)
            spent += cost if fits[-1] else 0.0
        if all(fits):
            return batch, list(costs)
        if not any(fits):
            raise AcquisitionError(_BROKE.format(left, min(costs)))
        note = f"{sum(fits)} of {len(fits)} rows fit the {left:,.0f} core-hours that are left"
        return _part(batch, np.array(fits), note), [cost for cost, ok in zip(costs, fits, strict=True) if ok]

    def _counted(self, rows: NDArray[np.int64]) -> list[float]:
        """Cost of each chosen row, at its fidelity."""
        n = len(self.context.pool)
        counted = iter(self.costs.counted([self.context.pool.rows[row] for row in rows[rows < n]]))
        return [
            next(counted) if row < n or self.cheaper is None else self.cheaper.core_hours(row // n)
            for row in rows.tolist()
        ]

    # -- the entries --------------------------------------------------------------------------------------------------

    def _describe(
        self,
        batch: Batch,
        costs: list[float | None],
        feasible: NDArray[np.float64] | None,
        extras: Sequence[FurtherObjective],
    ) -> list[QueueEntryRecord]:
        context, section = self.context, self.settings.campaign
        level, rows = np.divmod(batch.rows, len(context.pool))
        mean, std = self.posterior.mean_std(rows)
        details = [
            {"learned_mean": m, "learned_std": s, "rule": rule}
            for m, s, rule in zip(mean.tolist(), std.tolist(), batch.rules, strict=True)
        ]
        for name, values in self._about(rows, std, feasible, extras).items():
            for about, value in zip(details, values, strict=True):
                about[name] = value
        hit, threshold = context.manifest.hit, self.acquisition.threshold
        shared = ReasonContext(
            objective=self.goal.objective,
            best=self.best,
            beta=self._beta(len(self.candidates)),
            scale=context.scale.name,
            unit=section.unit,
            half_width=context.half_width,
            hit=None if hit is None else float(context.scale.learned(hit)),
            threshold=None if threshold is None else float(context.scale.learned(threshold)),
        )
        labelled = set(self.observed.tolist())
        entries = []
        for k, about in enumerate(details):
            row = ChosenRow(
                rule=batch.rules[k], mean=mean[k], std=std[k], feasibility=about.get("feasibility"), cost=costs[k]
            )
            words = reason(row, shared)
            words += "".join(f"; {extra.words(about[extra.name])}" for extra in extras)
            words += self.relatives.words(int(rows[k]), labelled) if self.relatives else ""
            entries.append(self._entry(k + 1, int(rows[k]), float(batch.values[k]), words, about))
        entries = [replace(e, expected_cost=cost) for e, cost in zip(entries, costs, strict=True)]
        if self.cheaper is None or self._pool_cost is None:
            return entries
        return self.cheaper.named(entries, level, rows, self._pool_cost)

    def _entry(self, rank: int, row: int, value: float, words: str, about: dict[str, Any]) -> QueueEntryRecord:
        """Write a chosen row of the pool as a queue entry; ``about`` has its prediction in learned units."""
        context, mean, std = self.context, about["learned_mean"], about["learned_std"]
        logarithmic = context.scale.name == "log10"
        half = context.half_width * std
        return QueueEntryRecord(
            rank=rank,
            material_id=context.pool.rows[row].material_id,
            predicted_mean=float(context.scale.true(mean)),
            predicted_lower=float(context.scale.true(mean - half)),
            predicted_upper=float(context.scale.true(mean + half)),
            log10_mean=float(mean) if logarithmic else None,
            log10_std=float(std) if logarithmic else None,
            acquisition_value=value if math.isfinite(value) else None,
            reason=words,
            fidelity=self.settings.campaign.fidelity,
            details=about,
        )

    def _about(
        self,
        rows: NDArray[np.int64],
        std: NDArray[np.float64],
        feasible: NDArray[np.float64] | None,
        extras: Sequence[FurtherObjective],
    ) -> dict[str, list[float]]:
        """Describe each row beside its prediction: components of the spread, distance from the labels."""
        context = self.context
        table = finite_predictions(context, context.hashes(rows))
        parts = decompose(table.mean, table.std)
        parts = parts.scaled(std / parts.total)  # calibration, and the inflation far from the labels
        found: dict[str, list[float]] = {"between_std": parts.between.tolist(), "within_std": parts.within.tolist()}
        if len(self.observed) > 1:
            distance = TrainingDistance.fit(
                context.featuriser.embeddings(context.hashes(self.observed)), seed=context.seed
            )
            near = distance.percentile(distance(context.featuriser.embeddings(context.hashes(rows))))
            found["distance_percentile"] = near.tolist()
        if feasible is not None:
            found["feasibility"] = feasible[rows].tolist()
        return found | {extra.name: extra.shown(rows) for extra in extras}


def limits_of(context: RoundContext) -> GroupLimits:
    """Most entries of one group in a batch, by the groups of all rows."""
    section = context.settings.constraints
    limits: dict[str, Any] = {}
    if section.max_per_chemical_system is not None:
        limits["chemical system"] = (context.pool.families("chemical_system"), section.max_per_chemical_system)
    if section.max_per_prototype is not None:
        limits["prototype"] = (context.pool.families("prototype"), section.max_per_prototype)
    return limits


def round_costs(context: RoundContext) -> Costs:
    """Costs as the round's settings and labels give them."""
    now, dft = context.workspace.configuration, context.manifest.dft
    # the manifest does not hold how other labelers work
    settings = now.model_copy(update={"campaign": context.settings.campaign, "costs": context.settings.costs})
    own = None if dft is None else DftSection.model_validate(dft)
    return Costs(context.store, settings, context.workspace.artifacts, _by_id(context), context.say, own)


def _part(batch: Batch, kept: NDArray[np.bool_], *notes: str) -> Batch:
    """Some rows of a batch, with further notes."""
    rules = tuple(rule for rule, keep in zip(batch.rules, kept.tolist(), strict=True) if keep)
    return Batch(batch.rows[kept], batch.values[kept], rules, (*batch.notes, *notes))


def _by_id(context: RoundContext) -> Mapping[str, LabelRecord]:
    """Labels in the order of the pool, so that a fit does not depend on the order of arrival."""
    return {id_: context.labels[id_] for id_ in context.pool.ids if id_ in context.labels}


def _array(values: Any) -> NDArray[np.float64]:
    return np.array(list(values), dtype=np.float64)
