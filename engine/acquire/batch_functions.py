"""Acquisition functions of a batch as a whole: on joint draws, on the joint Gaussian, for several objectives.

The mathematics is in :mod:`engine.acquire.montecarlo`, ``gaussian`` and ``pareto``, imported when a batch is built:
BoTorch takes seconds. NumPy is imported there too: the names and goals of the functions are read by every command.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from engine.acquire.registry import AcquisitionFunction, Needs, register
from engine.exceptions import AcquisitionError

if TYPE_CHECKING:
    from engine.acquire.explanation import ChosenRow, ReasonContext
    from engine.acquire.montecarlo import ExpectedImprovement, ProbabilityOfImprovement, UpperConfidenceBound
    from engine.acquire.pool import CandidatePool
    from engine.acquire.request import BatchRequest
    from engine.acquire.sequential import Acquisition

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
    """A function that compares with the best known value; without one the best predicted mean is used."""

    needs = Needs.JOINT

    def notes(self, pool: CandidatePool, request: BatchRequest) -> list[str]:
        """Note on the replacement of a missing best value."""
        from engine.acquire.explanation import shown

        if request.best is not None:
            return []
        best = float(pool.marginal(0.0).max())
        linear = pool.objective.kind != "window"
        value = shown(pool.objective.sign * best, request.scale) if linear else f"{-best:.3g} off"
        return [f"{self.name}: no value is known yet; the best predicted mean, {value}, is used"]

    @staticmethod
    def incumbent(pool: CandidatePool, request: BatchRequest) -> float:
        """Utility of the best known value, or of the best predicted mean."""
        best = request.best_utility(pool.objective)
        return float(pool.marginal(0.0).max()) if best is None else best


@register
class LogExpectedImprovement(_OverBest):
    """Expected improvement of the batch over the best known value, its logarithm."""

    name = "qLogEI"
    description = "chosen jointly with the rest of the batch"
    source = _AMENT

    def build(self, pool: CandidatePool, request: BatchRequest) -> ExpectedImprovement:
        """Increment of qLogEI."""
        from engine.acquire.montecarlo import ExpectedImprovement

        return ExpectedImprovement(self.incumbent(pool, request), pool.posterior.n_draws)


@register
class LogNoisyExpectedImprovement(AcquisitionFunction):
    """Expected improvement over the labelled rows, whose values are drawn jointly."""

    name = "qLogNEI"
    description = "chosen jointly with the rest of the batch, labels not taken as exact"
    source = f"{_AMENT}; noisy: Letham, Karrer, Ottoni, Bakshy, Bayesian Anal. 14, 495, 2019"
    needs = Needs.JOINT

    def build(self, pool: CandidatePool, request: BatchRequest) -> ExpectedImprovement:
        """Increment of qLogNEI: expected improvement with the labelled rows taken first."""
        from engine.acquire.montecarlo import ExpectedImprovement

        observed = request.observed_rows
        if not len(observed):
            raise AcquisitionError("qLogNEI compares with the labelled rows, and none was given; pass observed")
        nothing = ExpectedImprovement(-math.inf, pool.posterior.n_draws)
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

    def build(self, pool: CandidatePool, request: BatchRequest) -> UpperConfidenceBound:
        """Joint bound; with weights only what lies above the candidates' median bound counts."""
        import numpy as np

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

    def build(self, pool: CandidatePool, request: BatchRequest) -> ProbabilityOfImprovement:
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

    def build(self, pool: CandidatePool, request: BatchRequest) -> Acquisition:
        """Information in nats that a label gives."""
        from engine.acquire.gaussian import MaxValueEntropy, require_gaussian

        require_gaussian(self.name, pool.posterior.n_draws)
        best = request.best_utility(pool.objective)
        return MaxValueEntropy(self.name, pool.objective.sign, best, pool.posterior.n_draws)


@register
class Gibbon(_MaxValueEntropySearch):
    """A lower bound of the information about the best value (GIBBON)."""

    name = "GIBBON"
    source = "Moss, Leslie, Gonzalez, Rayson, J. Mach. Learn. Res. 22, 235, 2021, arXiv:2102.03324"


@register
class EntropySearch(_MaxValueEntropySearch):
    """Information about the best value, by samples of the label (max-value entropy search)."""

    name = "qMES"
    source = (
        "Wang, Jegelka, Max-value entropy search for efficient Bayesian optimization, ICML 2017, arXiv:1703.01968; "
        "Takeno et al., ICML 2020, arXiv:1901.08275"
    )


@register
class KnowledgeGradientFunction(AcquisitionFunction):
    """Expected increase of the best posterior mean (knowledge gradient)."""

    name = "qKG"
    description = "its label is expected to raise the best prediction most"
    source = "Frazier, Powell, Dayanik, INFORMS J. Comput. 21, 599, 2009"
    needs = Needs.GAUSSIAN
    goals = _LINEAR
    counts_fidelities = True

    def build(self, pool: CandidatePool, request: BatchRequest) -> Acquisition:
        """Knowledge gradient over the most promising rows."""
        from engine.acquire.gaussian import KnowledgeGradient, require_gaussian

        require_gaussian(self.name, pool.posterior.n_draws)
        return KnowledgeGradient(pool.objective.sign, pool.posterior.n_draws)


@register
class VarianceReduction(AcquisitionFunction):
    """Reduction of the mean predictive variance."""

    name = "variance"
    description = "its label makes the predictions of all others surest"
    source = (
        "Seo, Wallat, Graepel, Obermayer, Gaussian process regression: active data selection, IJCNN 2000; Cohn, "
        "Ghahramani, Jordan, J. Artif. Intell. Res. 4, 129, 1996"
    )
    needs = Needs.GAUSSIAN
    counts_fidelities = True

    def build(self, pool: CandidatePool, request: BatchRequest) -> Acquisition:
        """Reduction of the variance averaged over candidates drawn at random, at the target fidelity."""
        import numpy as np

        from engine.acquire.gaussian import IntegratedVariance, require_gaussian

        require_gaussian(self.name, pool.posterior.n_draws)
        drawn = request.rng.choice(pool.rows, min(VARIANCE_REFERENCE, len(pool)), replace=False)
        reference = np.sort(drawn) if pool.target_of is None else np.unique(pool.target_of[np.sort(drawn)])
        return IntegratedVariance(pool.read(reference, drawn=True, target=False))


@register
class LevelSetFunction(AcquisitionFunction):
    """Boundary where values pass a threshold."""

    name = "level_set"
    description = "near the threshold, and uncertain on which side"
    source = (
        "Bryan, Nichol, Genovese, Schneider, Miller, Wasserman, Active learning for identifying function threshold "
        "boundaries, NIPS 2005"
    )
    needs = Needs.GAUSSIAN

    def build(self, pool: CandidatePool, request: BatchRequest) -> Acquisition:
        """Straddle heuristic about the threshold."""
        from engine.acquire.gaussian import LevelSet, require_gaussian

        require_gaussian(self.name, pool.posterior.n_draws)
        if request.options.threshold is None:
            raise AcquisitionError("level_set searches kappa = threshold, and no threshold was given; pass threshold")
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

    def build(self, pool: CandidatePool, request: BatchRequest) -> Acquisition:
        """Growth beyond the labelled rows' front."""
        from engine.acquire.pareto import HypervolumeImprovement

        return HypervolumeImprovement(pool.read(request.observed_rows, drawn=True), request.options.reference)


@register
class ParegoFunction(_ParetoFunction):
    """Improvement of a random weighting of the objectives."""

    name = "qLogNParEGO"
    description = "improves a random compromise of the objectives most"
    source = f"Knowles, IEEE Trans. Evol. Comput. 10, 50, 2006; {_AMENT}"

    def build(self, pool: CandidatePool, request: BatchRequest) -> Acquisition:
        """Expected improvement of a weighted sum, its weights drawn anew for each pick."""
        from engine.acquire.pareto import RandomScalarisation

        return RandomScalarisation(pool.read(request.observed_rows, drawn=True), request.rng)
