"""The acquisition functions, each a class with its source; :data:`FUNCTIONS` holds them by name.

The mathematics is in :mod:`engine.acquire.montecarlo`, ``gaussian``, ``pareto`` and ``marginal``, imported when a batch
is built: BoTorch takes seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.acquire.portfolio import MEMBERS, probabilities
from engine.acquire.registry import FUNCTIONS, AcquisitionFunction, Needs, acquisition_function, register
from engine.exceptions import AcquisitionError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.acquire.builder import BatchBuilder
    from engine.acquire.explanation import ChosenRow, ReasonContext
    from engine.acquire.marginal import MarginalRule, Rule
    from engine.acquire.montecarlo import ExpectedImprovement, ProbabilityOfImprovement, UpperConfidenceBound
    from engine.acquire.pool import Pool
    from engine.acquire.request import BatchRequest
    from engine.acquire.sequential import Acquisition

__all__ = ["FUNCTIONS", "Needs", "acquisition_function", "check_portfolio"]

VARIANCE_REFERENCE = 1024
"""Candidates over which ``variance`` averages the predictive variance."""
_AMENT = (
    "Ament, Daulton, Eriksson, Balandat, Bakshy, Unexpected improvements to expected improvement, NeurIPS 2023, "
    "arXiv:2310.20708"
)
_WILSON = (
    "Wilson, Moriconi, Hutter, Deisenroth, The reparameterization trick for acquisition functions, arXiv:1712.00424, "
    "appendix A"
)
_LINEAR = ("min", "max")


# -- joint draws ------------------------------------------------------------------------------------------------------


class _OverBest(AcquisitionFunction):
    """A function that compares with the best known value; without one the best predicted mean stands in."""

    needs = Needs.JOINT

    def notes(self, pool: Pool, request: BatchRequest) -> list[str]:
        """Say what stands in for a missing best value."""
        from engine.acquire.explanation import shown

        if request.best is not None:
            return []
        best = float(pool.marginal(0.0).max())
        linear = pool.objective.kind != "window"
        value = shown(pool.objective.sign * best, request.scale) if linear else f"{-best:.3g} off"
        return [f"{self.name}: no value is known yet; the best predicted mean, {value}, stands in"]

    @staticmethod
    def incumbent(pool: Pool, request: BatchRequest) -> float:
        """Utility of the best known value, or of the best predicted mean."""
        best = request.best_utility(pool.objective)
        return float(pool.marginal(0.0).max()) if best is None else best


@register
class LogExpectedImprovement(_OverBest):
    """Expected improvement of the batch over the best known value, its logarithm."""

    name = "qLogEI"
    description = "chosen jointly with the rest of the batch"
    source = _AMENT

    def build(self, pool: Pool, request: BatchRequest) -> ExpectedImprovement:
        """Increment of qLogEI."""
        from engine.acquire.montecarlo import ExpectedImprovement

        return ExpectedImprovement(self.incumbent(pool, request), pool.posterior.n_draws)


@register
class LogNoisyExpectedImprovement(AcquisitionFunction):
    """Expected improvement over the labelled rows, whose values are drawn too."""

    name = "qLogNEI"
    description = "chosen jointly with the rest of the batch, labels not taken as exact"
    source = f"{_AMENT}; noisy: Letham, Karrer, Ottoni, Bakshy, Bayesian Anal. 14, 495, 2019"
    needs = Needs.JOINT

    def build(self, pool: Pool, request: BatchRequest) -> ExpectedImprovement:
        """Increment of qLogNEI: expected improvement with the labelled rows taken first."""
        from engine.acquire.montecarlo import ExpectedImprovement

        observed = request.observed_rows
        if not len(observed):
            raise AcquisitionError("qLogNEI compares with the labelled rows, and none was given; pass observed")
        nothing = ExpectedImprovement(-np.inf, pool.posterior.n_draws)
        for start in range(0, len(observed), pool.chunk):
            nothing.take(pool.read(observed[start : start + pool.chunk], drawn=True))
        return nothing


@register
class JointUpperConfidenceBound(AcquisitionFunction):
    """Upper confidence bound of the batch as a whole."""

    name = "qUCB"
    description = "chosen jointly with the rest of the batch"
    source = _WILSON
    needs = Needs.JOINT

    def build(self, pool: Pool, request: BatchRequest) -> UpperConfidenceBound:
        """Joint bound; with weights only what lies above the candidates' median bound counts."""
        from engine.acquire.montecarlo import UpperConfidenceBound

        mean, std = pool.moments[0]
        reference = float(np.median(pool.marginal(request.beta)) if request.is_weighted else mean.min() - std.max())
        return UpperConfidenceBound(request.beta, reference, pool.posterior.n_draws)


@register
class JointProbabilityOfImprovement(_OverBest):
    """Probability that the best of the batch beats the best known value."""

    name = "qPI"
    description = "makes it likeliest, with the rest of the batch, that one beats the best known"
    source = f"Kushner, J. Basic Eng. 86, 97, 1964; in batches: {_WILSON}"

    def build(self, pool: Pool, request: BatchRequest) -> ProbabilityOfImprovement:
        """Joint probability of improvement."""
        from engine.acquire.montecarlo import ProbabilityOfImprovement

        return ProbabilityOfImprovement(self.incumbent(pool, request), pool.posterior.n_draws)


# -- the joint Gaussian -----------------------------------------------------------------------------------------------


class _MaxValueEntropySearch(AcquisitionFunction):
    """Information about the best value of the pool."""

    description = "tells most about the best value of the pool"
    needs = Needs.GAUSSIAN
    goals = _LINEAR
    counts_fidelities = True

    def build(self, pool: Pool, request: BatchRequest) -> Acquisition:
        """Information in nats that a label gives."""
        from engine.acquire.gaussian import MaxValueEntropy, require_gaussian

        require_gaussian(self.name, pool.posterior.n_draws)
        best = request.best_utility(pool.objective)
        return MaxValueEntropy(self.name, pool.objective.sign, best, pool.posterior.n_draws)


@register
class Gibbon(_MaxValueEntropySearch):
    """A lower bound of the information about the best value."""

    name = "GIBBON"
    source = "Moss, Leslie, Gonzalez, Rayson, J. Mach. Learn. Res. 22, 235, 2021, arXiv:2102.03324"


@register
class EntropySearch(_MaxValueEntropySearch):
    """Information about the best value, by samples of the label."""

    name = "qMES"
    source = (
        "Wang, Jegelka, Max-value entropy search for efficient Bayesian optimization, ICML 2017, arXiv:1703.01968; "
        "Takeno et al., ICML 2020, arXiv:1901.08275"
    )


@register
class KnowledgeGradientFunction(AcquisitionFunction):
    """Expected rise of the best posterior mean."""

    name = "qKG"
    description = "its label is expected to raise the best prediction most"
    source = "Frazier, Powell, Dayanik, INFORMS J. Comput. 21, 599, 2009"
    needs = Needs.GAUSSIAN
    goals = _LINEAR
    counts_fidelities = True

    def build(self, pool: Pool, request: BatchRequest) -> Acquisition:
        """Knowledge gradient over the most promising rows."""
        from engine.acquire.gaussian import KnowledgeGradient, require_gaussian

        require_gaussian(self.name, pool.posterior.n_draws)
        return KnowledgeGradient(pool.objective.sign, pool.posterior.n_draws)


@register
class VarianceReduction(AcquisitionFunction):
    """Fall of the mean predictive variance."""

    name = "variance"
    description = "its label makes the predictions of all others surest"
    source = (
        "Seo, Wallat, Graepel, Obermayer, Gaussian process regression: active data selection, IJCNN 2000; Cohn, "
        "Ghahramani, Jordan, J. Artif. Intell. Res. 4, 129, 1996"
    )
    needs = Needs.GAUSSIAN
    counts_fidelities = True

    def build(self, pool: Pool, request: BatchRequest) -> Acquisition:
        """Fall of the variance averaged over candidates drawn at random, at the target fidelity."""
        from engine.acquire.gaussian import IntegratedVariance, require_gaussian

        require_gaussian(self.name, pool.posterior.n_draws)
        drawn = request.rng.choice(pool.rows, min(VARIANCE_REFERENCE, len(pool)), replace=False)
        reference = np.sort(drawn) if pool.target_of is None else np.unique(pool.target_of[np.sort(drawn)])
        return IntegratedVariance(pool.read(reference, drawn=True, target=False))


@register
class LevelSetFunction(AcquisitionFunction):
    """Where values pass a threshold."""

    name = "level_set"
    description = "near the threshold, and uncertain on which side"
    source = (
        "Bryan, Nichol, Genovese, Schneider, Miller, Wasserman, Active learning for identifying function threshold "
        "boundaries, NIPS 2005"
    )
    needs = Needs.GAUSSIAN

    def build(self, pool: Pool, request: BatchRequest) -> Acquisition:
        """Straddle heuristic about the threshold."""
        from engine.acquire.gaussian import LevelSet, require_gaussian

        require_gaussian(self.name, pool.posterior.n_draws)
        if request.options.threshold is None:
            raise AcquisitionError("level_set looks for kappa = threshold, and none was given; pass threshold")
        return LevelSet(request.options.threshold, pool.posterior.n_draws)

    def reason(self, row: ChosenRow, context: ReasonContext) -> str:
        """Name the threshold."""
        if context.threshold is None:
            return super().reason(row, context)
        return f"uncertain on which side of {context.shown(context.threshold)} it lies ({self.name})"


# -- several objectives -----------------------------------------------------------------------------------------------


class _ParetoFunction(AcquisitionFunction):
    """A function that trades several objectives off."""

    needs = Needs.PARETO

    def check(self, request: BatchRequest, n_objectives: int) -> None:
        """Refuse one objective, and a front of no labelled rows."""
        if n_objectives < 2:
            raise AcquisitionError(
                f"{self.name} trades several objectives off and got {n_objectives}; use qLogEI or give more"
            )
        if not len(request.observed_rows):
            raise AcquisitionError(f"{self.name} improves on the labelled rows, and none was given; pass observed")


@register
class LogHypervolumeImprovement(_ParetoFunction):
    """Growth of the hypervolume that the objectives dominate."""

    name = "qLogNEHVI"
    description = "widens the front of the objectives most"
    source = f"Daulton, Balandat, Bakshy, NeurIPS 2021, arXiv:2105.08195; {_AMENT}"

    def build(self, pool: Pool, request: BatchRequest) -> Acquisition:
        """Growth beyond the labelled rows' front."""
        from engine.acquire.pareto import HypervolumeImprovement

        return HypervolumeImprovement(pool.read(request.observed_rows, drawn=True), request.options.reference)


@register
class ParegoFunction(_ParetoFunction):
    """Improvement of a random weighting of the objectives."""

    name = "qLogNParEGO"
    description = "improves a random compromise of the objectives most"
    source = f"Knowles, IEEE Trans. Evol. Comput. 10, 50, 2006; {_AMENT}"

    def build(self, pool: Pool, request: BatchRequest) -> Acquisition:
        """Expected improvement of a weighted sum, its weights drawn anew for each pick."""
        from engine.acquire.pareto import RandomScalarisation

        return RandomScalarisation(pool.read(request.observed_rows, drawn=True), request.rng)


# -- mean and standard deviation of each row --------------------------------------------------------------------------


class _MarginalFunction(AcquisitionFunction):
    """A rule of each row's mean and standard deviation, the latter given what is taken."""

    needs = Needs.MARGINAL
    can_hallucinate = True

    def rule(self, pool: Pool, request: BatchRequest) -> Rule:
        """What ranks the rows."""
        raise NotImplementedError

    def build(self, pool: Pool, request: BatchRequest) -> Acquisition:
        """Rule on the marginals; with rows to condition on, on the spread that their labels leave."""
        from engine.acquire.marginal import MarginalRule

        rule = self.rule(pool, request)
        if len(request.taken) or request.diverse == "hallucinate":
            from engine.acquire.gaussian import BelieverRule

            return BelieverRule(rule, pool.objective, pool.posterior.n_draws)
        return MarginalRule(rule, pool.objective)


@register
class UpperConfidence(_MarginalFunction):
    """``mean + sqrt(beta) std`` of the utility; with beta 1 and goal ``min`` it ranks by mean - sd from below."""

    name = "ucb"
    description = "the best it may be"
    source = (
        "Cox, John, SDO: a statistical method for global optimization, 1992; Srinivas, Krause, Kakade, Seeger, ICML "
        "2010, arXiv:0912.3995"
    )

    def rule(self, pool: Pool, request: BatchRequest) -> Rule:
        """Upper confidence bound."""
        from engine.acquire.marginal import ConfidenceBound

        return ConfidenceBound(request.beta)

    def reason(self, row: ChosenRow, context: ReasonContext) -> str:
        """Name the bound."""
        if context.objective.kind == "window":
            return super().reason(row, context)
        bound = row.mean + context.objective.sign * np.sqrt(context.beta) * row.std
        side = "low" if context.objective.kind == "min" else "high"
        return f"may be as {side} as {context.shown(bound)} ({self.name})"


@register
class TopShare(_MarginalFunction):
    """Expected excess over the predicted bound of the pool's best share."""

    name = "top_share"
    description = "reaches furthest beyond the bound of the pool's best"
    source = (
        "expected improvement (Jones, Schonlau, Welch, J. Global Optim. 13, 455, 1998) beyond a quantile (as in "
        "Bergstra, Bardenet, Bengio, Kegl, NIPS 2011), here of the pool's predictions"
    )

    def rule(self, pool: Pool, request: BatchRequest) -> Rule:
        """Excess over the quantile of candidates, labelled and pending rows."""
        from engine.acquire.marginal import ExpectedExcess

        others = np.union1d(request.observed_rows, request.pending_rows)
        return ExpectedExcess.of_best(request.options.share, pool, others)


@register
class Greedy(AcquisitionFunction):
    """The posterior mean alone; what is taken does not move it."""

    name = "greedy"
    description = "best predicted value"
    source = "the posterior mean alone (pure exploitation)"
    needs = Needs.MARGINAL

    def build(self, pool: Pool, request: BatchRequest) -> MarginalRule:
        """Mean utility."""
        from engine.acquire.marginal import ConfidenceBound, MarginalRule

        return MarginalRule(ConfidenceBound(0.0), pool.objective)

    def reason(self, row: ChosenRow, context: ReasonContext) -> str:
        """Name the end that is wanted."""
        if context.objective.kind == "window":
            return super().reason(row, context)
        return f"{'lowest' if context.objective.kind == 'min' else 'highest'} predicted value ({self.name})"


# -- draws and mixtures -----------------------------------------------------------------------------------------------


@register
class Thompson(AcquisitionFunction):
    """The best row of one joint draw for each pick."""

    name = "thompson"
    description = "best of a draw from the posterior"
    source = (
        "Thompson, Biometrika 25, 285, 1933; in batches: Kandasamy et al., AISTATS 2018, arXiv:1705.09236; "
        "Hernandez-Lobato et al., ICML 2017, arXiv:1706.01825"
    )
    needs = Needs.DRAW

    def choose(self, builder: BatchBuilder, q: int) -> int:
        """Take the best row of each draw in turn; a draw whose best row is taken is passed over for the next.

        When all draws have been used the second-best row of each is offered, then the third, ... Draws that have their
        best at a pending row come last.
        """
        from engine.acquire.builder import best_of_each_draw

        ranked = best_of_each_draw(builder.pool, max(q, 2), builder.log_weights)
        order = builder.request.rng.permutation(len(ranked))
        pending = builder.request.pending_rows
        if len(pending):
            best = builder.pool.read(pending, drawn=True).utility.max(axis=1)
            order = order[np.argsort([best[d] > ranked[d][0][0] for d in order], kind="stable")]
        first, depth = len(builder.positions), 0
        for depth in range(len(ranked[0][0])):
            for draw in order:
                value, position = ranked[draw][0][depth], int(ranked[draw][1][depth])
                if len(builder.positions) < first + q and builder.limits.open[position]:
                    builder.keep(position, float(value), self.name)
            if len(builder.positions) == first + q:
                break
        if tied := sum(len(values) > 1 and values[0] == values[1] for values, _ in ranked):
            builder.notes.append(
                f"thompson: the best rows of {tied} of {len(ranked)} draws tie; broken by a seeded permutation"
            )
        if depth:
            builder.notes.append(
                f"thompson: {len(ranked)} draws have fewer than {q} different best rows; went on to rows ranked up to "
                f"{depth + 1} in their draw"
            )
        return first + q - len(builder.positions)


@register
class Random(AcquisitionFunction):
    """Rows at random."""

    name = "random"
    description = "drawn at random"
    source = "uniform without replacement (the baseline)"
    needs = Needs.NOTHING

    def choose(self, builder: BatchBuilder, q: int) -> int:
        """Take rows in the order of the seeded permutation that breaks ties."""
        pool = builder.pool
        return builder.take_in_order(np.argsort(pool.priority), np.zeros(len(pool)), self.name, q)

    def reason(self, row: ChosenRow, context: ReasonContext) -> str:
        """Leave the name out, which says the same."""
        return self.description


class _Mixture(AcquisitionFunction):
    """Other functions that share a batch."""

    needs = Needs.OTHERS

    def shares(self, q: int, request: BatchRequest) -> dict[str, int]:
        """Rows that each function chooses, q in all."""
        raise NotImplementedError

    def choose(self, builder: BatchBuilder, q: int) -> int:
        """Let one function after the other choose its share, each conditioned on what is there."""
        if builder.request.q is None:
            raise AcquisitionError(f"{self.name} shares a batch out by number; give q beside the budget")
        for name, share in self.shares(q, builder.request).items():
            if share:
                acquisition_function(name).extend(builder, share)
        return 0


@register
class EpsilonGreedy(_Mixture):
    """Best predicted values, and a share of random rows."""

    name = "epsilon_greedy"
    description = "best predicted value, or at random"
    source = (
        "Sutton, Barto, Reinforcement learning, 2nd ed., 2018, section 2.2; De Ath, Everson, Rahat, Fieldsend, Greed "
        "is good, ACM TELO 1, 1, 2021, arXiv:1911.12809"
    )

    def shares(self, q: int, request: BatchRequest) -> dict[str, int]:
        """Draw the number of random rows from a binomial distribution."""
        at_random = int(request.rng.binomial(q, request.options.epsilon))
        return {"greedy": q - at_random, "random": at_random}


@register
class Portfolio(_Mixture):
    """Several functions, more of those whose labels were good."""

    name = "portfolio"
    description = "by the function that has done well"
    source = "Hoffman, Brochu, de Freitas, Portfolio allocation for Bayesian optimization, UAI 2011, arXiv:1009.5419"

    def shares(self, q: int, request: BatchRequest) -> dict[str, int]:
        """Draw the members' shares from a multinomial distribution."""
        gains = request.options.portfolio
        gains = dict.fromkeys(MEMBERS, 0.0) if gains is None else gains
        check_portfolio(gains)
        chances = probabilities(gains)
        return dict(zip(chances, request.rng.multinomial(q, list(chances.values())).tolist(), strict=True))


def check_portfolio(names: Iterable[str]) -> None:
    """Refuse members that share a batch out themselves or have several objectives.

    Raises
    ------
    AcquisitionError
        Also for a name that does not exist.
    """
    for name in names:
        if acquisition_function(name).needs in (Needs.OTHERS, Needs.PARETO):
            raise AcquisitionError(f"{name} cannot be part of a portfolio; name functions of one objective")
