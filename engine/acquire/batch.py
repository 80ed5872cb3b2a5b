"""A batch from the whole pool: which rows to compute next, in order.

Functions that look at the batch as a whole are maximised by sequential greedy (:mod:`engine.acquire.sequential`).
A maximum over D draws runs out of information as the batch grows. When no row gains anything that the arithmetic
resolves, the batch goes on by the marginal upper confidence bound and says so; exact ties fall to a seeded permutation.

Feasibility, diversity and cost enter as factors of the acquisition value: added as logarithms where it is one,
multiplied where it is positive, and applied to what it has above the candidates' median where it has no natural zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from engine.acquire.allowance import Allowance, Limits, Relatives
from engine.acquire.diversity import Diversity, DiversityName, Embeddings, diversity
from engine.acquire.functions import AcquisitionFunction, Needs, acquisition_function, scheduled_beta
from engine.acquire.marginal import ConfidenceBound, ExpectedExcess, MarginalRule, Rule
from engine.acquire.objectives import Objective
from engine.acquire.pool import Criterion, Pool, top
from engine.acquire.portfolio import MEMBERS, probabilities
from engine.acquire.reasons import shown
from engine.acquire.sequential import Acquisition, Kind, LazyGreedy, weighed
from engine.exceptions import AcquisitionError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.posteriors.posterior import PoolPosterior

FALLBACK = "ucb"
FEW = 32
"""Rows that are sorted for each that is asked for, before all are, where limits forbid some."""
REFERENCE = 1024
"""Candidates over which ``variance`` integrates."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Chosen rows in order; the value of each when it was chosen; the rule that chose it; what deserves saying.

    Values are those of the rule, to be maximised: qLogEI the natural logarithm of the conditional expected improvement
    in log10 kappa, top_share that of each row beyond its threshold; qUCB and qPI the joint value of pending and chosen
    rows; ucb, greedy and thompson log10 kappa, negated when the goal is ``min``; random zero. With feasibility, cost or
    diversity they are what ranked the rows.
    """

    rows: NDArray[np.int64]
    values: NDArray[np.float64]
    rules: tuple[str, ...]
    notes: tuple[str, ...]


def choose_batch(
    posterior: PoolPosterior,
    *,
    goal: str | Objective,
    acquisition: str,
    q: int | None,
    candidates: NDArray[np.int64],
    rng: np.random.Generator,
    best: float | None = None,
    pending: NDArray[np.int64] | None = None,
    observed: NDArray[np.int64] | None = None,
    chunk: int = 16_384,
    beta: float | Literal["schedule"] = 1.0,
    round_number: int = 1,
    threshold: float | None = None,
    share: float = 0.05,
    epsilon: float = 0.1,
    portfolio: Mapping[str, float] | None = None,
    feasibility: NDArray[np.float64] | None = None,
    cost: NDArray[np.float64] | None = None,
    budget: float | None = None,
    limits: Limits | None = None,
    relatives: Relatives | None = None,
    diverse: DiversityName = "none",
    embeddings: Embeddings | None = None,
    target_of: NDArray[np.int64] | None = None,
    scale: str = "linear",
) -> Batch:
    """Choose q rows among the candidates that are not pending.

    Parameters
    ----------
    posterior
        Calibrated posterior over the pool, log10 kappa.
    goal
        ``min``, ``max``, or an objective on the model's scale (a target, a window).
    acquisition
        Name of an acquisition function (:data:`engine.acquire.functions.FUNCTIONS`).
    q
        Rows to choose; ``None`` with a budget: as many as it pays for.
    candidates
        Rows that may be chosen (those that pass the constraints and have no label).
    rng
        Breaks exact ties; also ``random`` and the order of ``thompson``'s draws.
    best
        Best known log10 kappa, the incumbent of qLogEI and qPI; without one the best predicted mean stands in, with a
        note. (For a target or a window the known value with the best utility.)
    pending
        Rows queued or running: never chosen. Joint and Gaussian functions condition on them, ``ucb`` and ``top_share``
        on what their labels will leave of the spread, ``thompson`` passes over draws that have their best there;
        ``greedy`` keeps away from them only with a diversity, for a label at its mean does not move the means.
    observed
        Labelled rows of the pool, the incumbents of qLogNEI.
    chunk
        Rows whose draws are held at once; past the processor's cache larger is slower.
    beta
        Weight of the variance in qUCB and ucb; ``schedule`` lets it grow with ``round_number``.
    round_number
        Counts from 1.
    threshold
        log10 kappa whose level set ``level_set`` looks for.
    share
        Share of the pool (candidates, labelled and pending rows) that ``top_share`` looks for.
    epsilon
        Share of random picks in ``epsilon_greedy``.
    portfolio
        Gain of each member of ``portfolio`` (:mod:`engine.acquire.portfolio`); without, the usual members, all 0.
    feasibility
        Probability of each row of the pool (N) to be of use: no failure, chance constraints met.
    cost
        Expected core-hours of each row of the pool (N): value is counted per core-hour.
    budget
        Core-hours that the batch may cost in all.
    limits
        Most rows of one group, by name of the grouping.
    relatives
        Rows that are the same compound as a row: a batch never holds both, nor one beside a pending one.
    diverse
        How the batch is kept apart: ``hallucinate`` conditions ``ucb`` or ``top_share`` on its own picks;
        ``penalise`` and ``determinant`` work in embedding space with any function but ``thompson`` and ``random``.
    embeddings
        Rows of the pool -> ``n x d``.
    target_of
        For each row of the pool (N), of which several may be one material at several fidelities, the row at the
        fidelity that is wanted: GIBBON, qMES, qKG and ``variance`` then count what a row tells about those.
    scale
        What the posterior's values are; of ``log10`` notes show the true ones.

    Raises
    ------
    AcquisitionError
        For a request that cannot be met, before anything expensive.
    """
    objective = Objective.of(goal)
    function = acquisition_function(acquisition)
    if function.needs is Needs.PARETO:
        raise AcquisitionError(f"{acquisition} trades several objectives off; use choose_pareto_batch")
    if diverse == "hallucinate" and acquisition not in ("ucb", "top_share"):
        raise AcquisitionError(
            f"diversity 'hallucinate' is for ucb and top_share, not for {acquisition}; use 'penalise', or 'none'"
        )
    taken = np.unique(_rows(pending))
    free = _without(_rows(candidates), taken)
    request = _Request(
        best=None if best is None else float(objective.utility(np.asarray(best, dtype=np.float64))),
        taken=taken,
        observed=np.unique(_rows(observed)),
        beta=scheduled_beta(max(len(free), 1), round_number) if beta == "schedule" else float(beta),
        threshold=threshold,
        share=share,
        epsilon=epsilon,
        gains=dict.fromkeys(MEMBERS, 0.0) if portfolio is None else portfolio,
        diverse=diverse,
        embeddings=embeddings,
        rng=rng,
        scale=scale,
    )
    _check_request(posterior, request, q, best, free, len(_rows(candidates)), budget)
    log_factor = _log_factor(posterior.n_rows, free, feasibility, cost)
    n = len(free) if q is None else q
    criteria = (Criterion(posterior, objective),)
    pool = Pool(
        criteria, free, rng.integers(2**63, size=len(free)), chunk, _checked_targets(target_of, posterior.n_rows)
    )
    allowance = Allowance(free, limits, cost, budget, relatives, taken)
    growing = _Growing(pool, request, allowance, log_factor)
    for part, n_part in _parts(function, n, q, request):
        growing.add(part, n_part)
    return growing.batch(n, budget, getattr(posterior, "notes", ()))


def choose_pareto_batch(
    criteria: Sequence[Criterion],
    *,
    acquisition: str,
    q: int | None,
    candidates: NDArray[np.int64],
    observed: NDArray[np.int64],
    rng: np.random.Generator,
    pending: NDArray[np.int64] | None = None,
    reference: NDArray[np.float64] | None = None,
    chunk: int = 16_384,
    feasibility: NDArray[np.float64] | None = None,
    cost: NDArray[np.float64] | None = None,
    budget: float | None = None,
    limits: Limits | None = None,
    relatives: Relatives | None = None,
    diverse: DiversityName = "none",
    embeddings: Embeddings | None = None,
) -> Batch:
    """Choose q rows for several objectives at once: ``qLogNEHVI`` or ``qLogNParEGO``.

    Parameters
    ----------
    criteria
        Properties over the same pool, predicted (an ensemble's posterior) or known
        (:class:`engine.posteriors.posterior.KnownValues`), with as many draws each.
    observed
        Labelled rows of the pool, whose front is to be improved.
    reference
        Utilities (m; negated for ``min``, minus the distance for a window) that every useful row beats; without, a
        tenth below the worst of the labelled rows' front.

    The others are those of :func:`choose_batch`.
    """
    from engine.acquire.pareto import require_front

    criteria = tuple(criteria)
    function = acquisition_function(acquisition)
    if function.needs is not Needs.PARETO:
        raise AcquisitionError(f"{acquisition} has one objective; use qLogNEHVI or qLogNParEGO, or choose_batch")
    taken = np.unique(_rows(pending))
    free = _without(_rows(candidates), taken)
    request = _Request(
        taken=taken, observed=np.unique(_rows(observed)), reference=reference, diverse=diverse, embeddings=embeddings,
        rng=rng,
    )  # fmt: skip
    require_front(request.observed, acquisition, len(criteria))
    for criterion in criteria:
        _check_request(criterion.posterior, request, q, None, free, len(_rows(candidates)), budget)
    sizes = {(c.posterior.n_rows, c.posterior.n_draws) for c in criteria}
    if len(sizes) > 1:
        raise AcquisitionError(f"the objectives' posteriors have {sorted(sizes)} rows and draws; make them agree")
    log_factor = _log_factor(criteria[0].posterior.n_rows, free, feasibility, cost)
    n = len(free) if q is None else q
    pool = Pool(criteria, free, rng.integers(2**63, size=len(free)), chunk)
    allowance = Allowance(free, limits, cost, budget, relatives, taken)
    growing = _Growing(pool, request, allowance, log_factor)
    growing.add(function, n)
    return growing.batch(n, budget, ())


@dataclass(frozen=True, eq=False)
class _Request:
    """What was asked for besides the pool; ``best`` is a utility."""

    rng: np.random.Generator
    taken: NDArray[np.int64]
    observed: NDArray[np.int64]
    best: float | None = None
    beta: float = 1.0
    threshold: float | None = None
    share: float = 0.05
    epsilon: float = 0.0
    gains: Mapping[str, float] = field(default_factory=dict)
    diverse: str = "none"
    embeddings: Embeddings | None = None
    reference: NDArray[np.float64] | None = None
    scale: str = "linear"


class _Growing:
    """A batch that one function after the other adds to, each conditioned on what is there."""

    def __init__(self, pool: Pool, request: _Request, allowance: Allowance, log_factor: NDArray[np.float64] | None):
        self.pool, self.request, self.allowance, self.log_factor = pool, request, allowance, log_factor
        self.positions: list[int] = []
        self.values: list[float] = []
        self.rules: list[str] = []
        self.notes: list[str] = []
        self.diversity: Diversity = diversity(request.diverse, pool, request.embeddings, request.best, request.rng)
        if len(request.taken):
            self.diversity.take(request.taken)
        if (note := _far_off(pool, request.scale)) is not None:
            self.notes.append(note)
        if log_factor is not None:
            allowance.exclude(np.isneginf(log_factor))

    def add(self, function: AcquisitionFunction, q: int) -> None:
        """Let one function choose up to q more."""
        if not self.allowance.left:
            return
        if function.needs is Needs.DRAW:
            missing = self._thompson(q)
        elif function.needs is Needs.NOTHING:
            missing = self._in_order(np.argsort(self.pool.priority), np.zeros(len(self.pool)), function.name, q)
        elif self._is_a_sort(function):
            missing = self._sort(self._rule(function.name), function.name, q)
        else:
            missing = self._greedy(self._acquisition(function), function.name, q)
        if missing and function.name != FALLBACK and self.allowance.left:
            self.notes.append(
                f"{function.name}: from pick {q - missing + 1} on no candidate adds anything that the "
                f"{self.pool.posterior.n_draws} joint draws resolve; those picks are ranked by {FALLBACK} "
                f"(beta {self.request.beta:g})"
            )
            self._greedy(MarginalRule(ConfidenceBound(self.request.beta), self.pool.objective), FALLBACK, missing)

    def batch(self, q: int, budget: float | None, notes: Sequence[str]) -> Batch:
        """Give what was chosen, and say why it is fewer than q, if it is."""
        if not self.positions:
            raise AcquisitionError(
                "nothing can be chosen: feasibility, limits, budget and what is pending leave no row; relax one"
            )
        if budget is not None:
            self.notes.append(f"{self.allowance.spent:.4g} of {budget:g} core-hours for {len(self.positions)} rows")
        elif len(self.positions) < q:
            self.notes.append(f"limits and feasibility leave {len(self.positions)} of {q} rows; relax one for more")
        rules = tuple(self.rules)
        return Batch(self._chosen(), np.array(self.values, dtype=np.float64), rules, (*notes, *self.notes))

    def _chosen(self) -> NDArray[np.int64]:
        return self.pool.rows[np.array(self.positions, dtype=np.int64)]

    def _taken(self) -> NDArray[np.int64]:
        return np.concatenate([self.request.taken, self._chosen()])

    def _is_a_sort(self, function: AcquisitionFunction) -> bool:
        """Whether no pick changes the value of another."""
        if function.needs is not Needs.MARGINAL or self.request.diverse != "none":
            return False
        return function.name == "greedy" or not len(self._taken())

    def _rule(self, name: str) -> Rule:
        """Give what a marginal function ranks rows by."""
        request = self.request
        if name == "top_share":
            return ExpectedExcess.of_best(request.share, self.pool, np.union1d(request.observed, request.taken))
        return ConfidenceBound(request.beta if name == "ucb" else 0.0)

    def _sort(self, rule: Rule, name: str, q: int) -> int:
        """Take the q best rows by a rule; how many are missing."""
        values = rule(*self.pool.moments[0])
        if self.log_factor is not None:
            values = weighed(rule.kind, values, self.log_factor, float(np.median(values)))
        left = self.allowance.left
        if left < len(self.pool):
            values = np.where(self.allowance.open, values, -np.inf)
        order = top(values, self.pool.priority, min(q if self.allowance.unlimited else FEW * q, left))
        self.notes += _tie_notes(values, order[:q], name)
        missing = self._in_order(order, values, name, q)
        if not missing or len(order) == left:
            return missing
        return self._in_order(top(values, self.pool.priority, left), values, name, missing)

    def _in_order(self, order: NDArray[np.int64], values: NDArray[np.float64], name: str, q: int) -> int:
        """Take rows in this order as far as they are allowed; how many are missing."""
        for position in order:
            if q == 0 or not self.allowance.left:
                break
            if self.allowance.open[position]:
                self._keep(int(position), float(values[position]), name)
                q -= 1
        return q

    def _keep(self, position: int, value: float, name: str) -> None:
        self.allowance.take(position)
        self.diversity.take(self.pool.rows[[position]])
        self.positions.append(position)
        self.values.append(value)
        self.rules.append(name)

    def _greedy(self, acquisition: Acquisition, name: str, q: int) -> int:
        """Sequential greedy; how many are missing because nothing more can be gained."""
        taken = np.empty(0, dtype=np.int64) if isinstance(acquisition, MarginalRule) else self._taken()
        greedy = LazyGreedy(self.pool, acquisition, self.allowance, self.diversity, self.log_factor, taken)
        ties = 0
        while len(greedy.chosen) < q and self.allowance.left:
            tied = greedy.advance()
            if tied is None:
                break
            ties += tied > 0
        self.positions += greedy.chosen
        self.values += greedy.values
        self.rules += [name] * len(greedy.chosen)
        if ties:
            self.notes.append(f"{name}: {ties} of {q} picks tied exactly; broken by a seeded permutation")
        return q - len(greedy.chosen)

    def _thompson(self, q: int) -> int:
        """Each pick is the best row of one draw; a draw whose best row is taken is passed over for the next draw.

        When all draws have been used the second-best row of each is offered, then the third, ... Draws that have their
        best at a pending row come last.
        """
        ranked = _best_of_each_draw(self.pool, max(q, 2), self.log_factor)
        order = self.request.rng.permutation(len(ranked))
        if len(self.request.taken):
            pending = self.pool.read(self.request.taken, drawn=True).utility.max(axis=1)
            order = order[np.argsort([pending[d] > ranked[d][0][0] for d in order], kind="stable")]
        first, depth = len(self.positions), 0
        for depth in range(len(ranked[0][0])):
            for draw in order:
                value, position = ranked[draw][0][depth], int(ranked[draw][1][depth])
                if len(self.positions) < first + q and self.allowance.open[position]:
                    self._keep(position, float(value), "thompson")
            if len(self.positions) == first + q:
                break
        if tied := sum(len(values) > 1 and values[0] == values[1] for values, _ in ranked):
            self.notes.append(
                f"thompson: the best rows of {tied} of {len(ranked)} draws tie; broken by a seeded permutation"
            )
        if depth:
            self.notes.append(
                f"thompson: {len(ranked)} draws have fewer than {q} different best rows; went on to rows ranked up to "
                f"{depth + 1} in their draw"
            )
        return first + q - len(self.positions)

    def _acquisition(self, function: AcquisitionFunction) -> Acquisition:
        if function.needs is Needs.PARETO:
            return self._pareto(function.name)
        if function.needs is Needs.GAUSSIAN:
            return self._gaussian(function.name)
        if function.needs is Needs.JOINT:
            return self._joint(function.name)
        rule = self._rule(function.name)
        if function.name != "greedy" and (len(self._taken()) or self.request.diverse == "hallucinate"):
            from engine.acquire.gaussian import BelieverRule

            return BelieverRule(rule, self.pool.objective, self.pool.posterior.n_draws)
        return MarginalRule(rule, self.pool.objective)

    def _joint(self, name: str) -> Acquisition:
        from engine.acquire.montecarlo import ExpectedImprovement, ProbabilityOfImprovement, UpperConfidenceBound

        pool, request, n_draws = self.pool, self.request, self.pool.posterior.n_draws
        if name == "qUCB":
            weights_count = self.log_factor is not None or request.diverse != "none"
            mean, std = pool.moments[0]
            reference = float(np.median(pool.marginal(request.beta)) if weights_count else mean.min() - std.max())
            return UpperConfidenceBound(request.beta, reference, n_draws)
        if name == "qLogNEI":
            if not len(request.observed):
                raise AcquisitionError("qLogNEI compares with the labelled rows, and none was given; pass observed")
            nothing = ExpectedImprovement(-np.inf, n_draws)
            for start in range(0, len(request.observed), pool.chunk):
                nothing.take(pool.read(request.observed[start : start + pool.chunk], drawn=True))
            return nothing
        best = request.best
        if best is None:
            best = float(pool.marginal(0.0).max())
            self.notes.append(
                f"{name}: no value is known yet; the best predicted mean, "
                + (
                    shown(pool.objective.sign * best, request.scale)
                    if pool.objective.kind != "window"
                    else f"{-best:.3g} off"
                )
                + ", stands in"
            )
        return ProbabilityOfImprovement(best, n_draws) if name == "qPI" else ExpectedImprovement(best, n_draws)

    def _gaussian(self, name: str) -> Acquisition:
        from engine.acquire.gaussian import (
            IntegratedVariance,
            KnowledgeGradient,
            LevelSet,
            MaxValueEntropy,
            require_gaussian,
        )

        pool, n_draws = self.pool, self.pool.posterior.n_draws
        require_gaussian(name, n_draws)
        if name == "level_set":
            if self.request.threshold is None:
                raise AcquisitionError("level_set looks for kappa = threshold, and none was given; pass threshold")
            return LevelSet(self.request.threshold, n_draws)
        if name == "variance":
            some = np.sort(self.request.rng.choice(pool.rows, min(REFERENCE, len(pool)), replace=False))
            wanted = some if pool.target_of is None else np.unique(pool.target_of[some])
            return IntegratedVariance(pool.read(wanted, drawn=True, target=False))
        if name == "qKG":
            return KnowledgeGradient(pool.objective.sign, n_draws)
        return MaxValueEntropy(name, pool.objective.sign, self.request.best, n_draws)

    def _pareto(self, name: str) -> Acquisition:
        from engine.acquire.pareto import HypervolumeImprovement, RandomScalarisation

        baseline = self.pool.read(self.request.observed, drawn=True)
        if name == "qLogNEHVI":
            return HypervolumeImprovement(baseline, self.request.reference)
        return RandomScalarisation(baseline, self.request.rng)


def _parts(
    function: AcquisitionFunction, q: int, asked: int | None, request: _Request
) -> list[tuple[AcquisitionFunction, int]]:
    """Functions that share a batch, and how many rows each chooses."""
    if function.needs is not Needs.OTHERS:
        return [(function, q)]
    if asked is None:
        raise AcquisitionError(f"{function.name} shares a batch out by number; give q beside the budget")
    if function.name == "epsilon_greedy":
        at_random = int(request.rng.binomial(q, request.epsilon))
        shares = {"greedy": q - at_random, "random": at_random}
    else:
        chances = probabilities(request.gains)
        shares = dict(zip(chances, request.rng.multinomial(q, list(chances.values())).tolist(), strict=True))
    return [(acquisition_function(name), share) for name, share in shares.items() if share]


def _far_off(pool: Pool, scale: str) -> str | None:
    """Say when a target or a window lies outside all predictions."""
    objective = pool.objective
    if objective.kind != "window":
        return None
    mean, std = pool.mean_std
    low, high = float((mean - 3 * std).min()), float((mean + 3 * std).max())
    if low <= objective.high and objective.low <= high:
        return None
    wanted = " to ".join(dict.fromkeys(shown(end, scale) for end in (objective.low, objective.high)))
    return (
        f"the {'target' if objective.low == objective.high else 'window'} {wanted} lies outside all predictions, which "
        f"end at {shown(low, scale)} and {shown(high, scale)}; the nearest are taken"
    )


def _best_of_each_draw(
    pool: Pool, k: int, log_factor: NDArray[np.float64] | None
) -> list[tuple[NDArray[np.float64], NDArray[np.int64]]]:
    """Values and positions of the k best rows of every draw, best first, over the streamed pool."""
    ranked = [(np.empty(0), np.empty(0, dtype=np.int64))] * pool.posterior.n_draws
    middle = 0.0 if log_factor is None else float(np.median(pool.marginal(0.0)))
    for part in pool.chunks():
        positions = np.arange(len(pool))[part]
        utility = pool.read(pool.rows[part], drawn=True).utility.astype(np.float64)
        if log_factor is not None:
            utility = weighed(Kind.FREE, utility, np.broadcast_to(log_factor[part], utility.shape), middle)
        for d, draw in enumerate(utility):
            keep = top(draw, pool.priority[part], k)
            values = np.concatenate([ranked[d][0], draw[keep]])
            where = np.concatenate([ranked[d][1], positions[keep]])
            best = top(values, pool.priority[where], k)
            ranked[d] = (values[best], where[best])
    return ranked


def _tie_notes(values: NDArray[np.float64], best: NDArray[np.int64], name: str) -> tuple[str, ...]:
    """Say when the value of a chosen row equals another row's exactly."""
    if not len(best):
        return ()
    contenders, counts = np.unique(values[values >= values[best[-1]]], return_counts=True)
    tied = np.count_nonzero(np.isin(values[best], contenders[counts > 1]))
    if not tied:
        return ()
    return (f"{name}: {tied} of {len(best)} picks tie exactly with another row; broken by a seeded permutation",)


def _rows(rows: NDArray[np.int64] | None) -> NDArray[np.int64]:
    return np.asarray([] if rows is None else rows, dtype=np.int64)


def _without(rows: NDArray[np.int64], taken: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sorted, unique rows that are not taken."""
    if not len(taken) and (rows[1:] > rows[:-1]).all():
        return rows
    return np.setdiff1d(rows, taken)


def _log_factor(
    n_rows: int,
    free: NDArray[np.int64],
    feasibility: NDArray[np.float64] | None,
    cost: NDArray[np.float64] | None,
) -> NDArray[np.float64] | None:
    """Log of probability of feasibility over cost of each candidate, none where neither is given."""
    if feasibility is None and cost is None:
        return None
    factor = np.zeros(len(free))
    for name, values in (("feasibility", feasibility), ("cost", cost)):
        if values is None:
            continue
        if np.shape(values) != (n_rows,):
            raise AcquisitionError(f"{name} has shape {np.shape(values)}, the pool {n_rows} rows; give a number a row")
        mine = np.asarray(values, dtype=np.float64)[free]
        good = (mine >= 0) & (mine <= 1) if name == "feasibility" else (mine > 0) & np.isfinite(mine)
        if not good.all():
            raise AcquisitionError(
                f"the {name} of row {free[~good][0]} is {mine[~good][0]:g}; "
                + ("a probability lies between 0 and 1" if name == "feasibility" else "core-hours are above 0")
            )
        with np.errstate(divide="ignore"):
            factor += np.log(mine) if name == "feasibility" else -np.log(mine / np.median(mine))
    if np.isneginf(factor).all():
        raise AcquisitionError(f"all {len(free)} candidates have feasibility 0; widen the limits it was made of")
    return factor


def _check_request(
    posterior: PoolPosterior,
    request: _Request,
    q: int | None,
    best: float | None,
    free: NDArray[np.int64],
    n_candidates: int,
    budget: float | None,
) -> None:
    """Refuse what cannot be met before anything expensive."""
    if q is None and budget is None:
        raise AcquisitionError("neither a number of rows nor a budget was given; pass q, budget or both")
    if q is not None and q < 1:
        raise AcquisitionError(f"a batch of {q} rows cannot be chosen; ask for at least 1")
    if budget is not None and not budget > 0:
        raise AcquisitionError(f"a budget of {budget:g} core-hours buys nothing; give more than 0")
    if not request.beta >= 0:
        raise AcquisitionError(f"beta is {request.beta}, a weight of the variance; use 0 or more")
    if not 0 <= request.epsilon <= 1:
        raise AcquisitionError(f"epsilon is {request.epsilon}, a share of the batch; use 0 to 1")
    if not 0 < request.share < 1:
        raise AcquisitionError(f"share is {request.share}, a part of the pool; use a number between 0 and 1")
    if best is not None and not np.isfinite(best):
        raise AcquisitionError(f"the best known log10 value is {best}; pass a finite number, or None")
    for rows in (free, request.taken, request.observed):
        if len(rows) and not 0 <= rows[0] <= rows[-1] < posterior.n_rows:
            raise AcquisitionError(f"rows {rows[0]} to {rows[-1]} do not lie in the pool of {posterior.n_rows} rows")
    if len(free) < (1 if q is None else q):
        raise AcquisitionError(
            f"pool smaller than the batch: {1 if q is None else q} asked, {len(free)} can be chosen ({n_candidates} "
            f"candidates, {n_candidates - len(free)} of them pending or named twice); ask for a smaller batch, add "
            "candidates or relax a constraint"
        )


def _checked_targets(target_of: NDArray[np.int64] | None, n_rows: int) -> NDArray[np.int64] | None:
    if target_of is None:
        return None
    targets = np.asarray(target_of, dtype=np.int64)
    if targets.shape != (n_rows,) or targets.min() < 0 or targets.max() >= n_rows:
        raise AcquisitionError(f"target_of has to name a row of the pool for each of its {n_rows} rows")
    return targets
