"""Acquisition functions of single rows (mean and spread, one draw, at random), and mixtures of functions.

NumPy is imported by the methods that compute, since names and goals are also read where nothing is computed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.acquire.portfolio import MEMBERS, probabilities
from engine.acquire.registry import AcquisitionFunction, Needs, acquisition_function, register
from engine.exceptions import AcquisitionError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.acquire.builder import BatchBuilder
    from engine.acquire.explanation import ChosenRow, ReasonContext
    from engine.acquire.marginal import MarginalRule, Rule
    from engine.acquire.pool import CandidatePool
    from engine.acquire.request import BatchRequest
    from engine.acquire.sequential import Acquisition


# -- mean and standard deviation of each row --------------------------------------------------------------------------


class MarginalFunction(AcquisitionFunction):
    """A rule of each row's mean and standard deviation, the latter conditioned on pending and chosen rows.

    The base of a new function that looks at nothing else: a subclass has a name, a description, a source and
    :meth:`rule`.
    """

    needs = Needs.MARGINAL
    can_hallucinate = True

    def rule(self, pool: CandidatePool, request: BatchRequest) -> Rule:
        """Rule that ranks the rows, see :class:`engine.acquire.marginal.Rule`."""
        raise NotImplementedError(f"{self.name} has no rule")

    def build(self, pool: CandidatePool, request: BatchRequest) -> Acquisition:
        """Rule on the marginals; with rows to condition on, with the conditional spread."""
        from engine.acquire.marginal import MarginalRule

        rule = self.rule(pool, request)
        if len(request.taken) or request.diverse == "hallucinate":
            from engine.acquire.gaussian import BelieverRule

            return BelieverRule(rule, pool.objective, pool.posterior.n_draws)
        return MarginalRule(rule, pool.objective)


@register
class UpperConfidence(MarginalFunction):
    """``mean + sqrt(beta) std`` of the utility; with beta 1 and goal ``min`` it ranks by mean - sd from below."""

    name = "ucb"
    description = "the best it may be"
    source = (
        "Cox, John, SDO: a statistical method for global optimization, 1992; Srinivas, Krause, Kakade, Seeger, ICML "
        "2010, arXiv:0912.3995"
    )

    def rule(self, pool: CandidatePool, request: BatchRequest) -> Rule:
        """Upper confidence bound."""
        from engine.acquire.marginal import ConfidenceBound

        return ConfidenceBound(request.beta)

    def reason(self, row: ChosenRow, context: ReasonContext) -> str:
        """Name the bound."""
        if context.objective.kind == "window":
            return super().reason(row, context)
        import numpy as np

        bound = row.mean + context.objective.sign * np.sqrt(context.beta) * row.std
        side = "low" if context.objective.kind == "min" else "high"
        return f"may be as {side} as {context.shown(bound)} ({self.name})"


@register
class TopShare(MarginalFunction):
    """Expected excess over the predicted quantile of the pool."""

    name = "top_share"
    description = "reaches furthest beyond the bound of the pool's best"
    source = (
        "expected improvement (Jones, Schonlau, Welch, J. Global Optim. 13, 455, 1998) beyond a quantile (as in "
        "Bergstra, Bardenet, Bengio, Kegl, NIPS 2011), here of the pool's predictions; several fidelities: Huang, "
        "Allen, Notz, Miller, Struct. Multidiscip. Optim. 32, 369, 2006"
    )
    counts_fidelities = True

    def build(self, pool: CandidatePool, request: BatchRequest) -> Acquisition:
        """Excess of each row; with several fidelities that of its target times what a label tells of it."""
        if pool.target_of is None:
            return super().build(pool, request)
        import numpy as np

        from engine.acquire.gaussian import ExcessByFidelity, require_gaussian
        from engine.acquire.marginal import ExpectedExcess

        require_gaussian(self.name, pool.posterior.n_draws)
        everything = np.concatenate([pool.rows, request.observed_rows, request.pending_rows])
        rule = ExpectedExcess.of_rows(request.options.share, pool, np.unique(pool.target_of[everything]))
        return ExcessByFidelity(rule, pool.objective, pool.posterior.n_draws)

    def rule(self, pool: CandidatePool, request: BatchRequest) -> Rule:
        """Excess over the quantile of candidates, labelled and pending rows."""
        import numpy as np

        from engine.acquire.marginal import ExpectedExcess

        others = np.union1d(request.observed_rows, request.pending_rows)
        return ExpectedExcess.of_best(request.options.share, pool, others)


@register
class Greedy(AcquisitionFunction):
    """The posterior mean alone; chosen rows do not change it."""

    name = "greedy"
    description = "best predicted value"
    source = "the posterior mean alone (pure exploitation)"
    needs = Needs.MARGINAL

    def build(self, pool: CandidatePool, request: BatchRequest) -> MarginalRule:
        """Mean utility."""
        from engine.acquire.marginal import ConfidenceBound, MarginalRule

        return MarginalRule(ConfidenceBound(0.0), pool.objective)

    def reason(self, row: ChosenRow, context: ReasonContext) -> str:
        """Reason with the wanted end."""
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
    is_diverse = True

    def choose(self, builder: BatchBuilder, q: int) -> int:
        """Choose the best row of each draw in turn; a draw whose best row is chosen already is skipped.

        When all draws have been used, the second-best row of each follows, then the third, ... Draws that have their
        best at a pending row come last.
        """
        import numpy as np

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
                f"thompson: {len(ranked)} draws have fewer than {q} different best rows; used rows ranked up to "
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
    is_diverse = True

    def choose(self, builder: BatchBuilder, q: int) -> int:
        """Choose rows in the order of the seeded permutation that breaks ties."""
        import numpy as np

        pool = builder.pool
        return builder.take_in_order(np.argsort(pool.priority), np.zeros(len(pool)), self.name, q)

    def reason(self, row: ChosenRow, context: ReasonContext) -> str:
        """Reason without the name, which would repeat it."""
        return self.description


class _Mixture(AcquisitionFunction):
    """Other functions that share a batch."""

    needs = Needs.OTHERS

    def shares(self, q: int, request: BatchRequest) -> dict[str, int]:
        """Number of rows of each function, q in all."""
        raise NotImplementedError

    def choose(self, builder: BatchBuilder, q: int) -> int:
        """One function after the other chooses its share, each conditioned on the rows chosen before."""
        if builder.request.q is None:
            raise AcquisitionError(f"{self.name} divides a batch by number; give q as well as the budget")
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
    """Refuse members that divide a batch themselves or have several objectives.

    Raises
    ------
    AcquisitionError
        Also for a name that does not exist.
    """
    for name in names:
        if acquisition_function(name).needs in (Needs.OTHERS, Needs.PARETO):
            raise AcquisitionError(f"{name} cannot be part of a portfolio; name functions of one objective")
