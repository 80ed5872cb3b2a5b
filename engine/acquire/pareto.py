"""Several objectives at once: Pareto acquisition functions of BoTorch on a pool."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from botorch.acquisition.logei import TAU_RELU
from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
from botorch.utils.multi_objective.hypervolume import infer_reference_point
from botorch.utils.multi_objective.pareto import is_non_dominated
from botorch.utils.multi_objective.scalarization import get_chebyshev_scalarization

from engine.acquire.model import PoolModel
from engine.acquire.montecarlo import ExpectedImprovement
from engine.acquire.sequential import Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.acquire.pool import CandidatePool, Rows

NIL = -30.0
"""Log of a hypervolume too small to matter."""
OPTIMISM = 2.0
"""Standard deviations of the optimistic utility that screens large pools."""
SCALARISATIONS = 64
"""Number of scalarisations that screen large pools, and that are tried before a batch counts as saturated."""
DRAWS = 128
"""Most joint draws used, since each needs a decomposition of the dominated region."""
_ROWS_TOGETHER = 256
"""Rows of a block: BoTorch holds draws x rows x cells of the dominated region in memory."""


class HypervolumeImprovement:
    """Log of the expected hypervolume improvement: qLogNEHVI.

    Daulton, Balandat, Bakshy, NeurIPS 2021, arXiv:2105.08195; Ament et al., arXiv:2310.20708.

    Parameters
    ----------
    baseline
        The labelled rows.
    reference
        Utilities (m) that any useful row beats; without, a tenth below the worst of the front of the labelled rows.
    """

    kind = Kind.LOG
    needs_draws = True
    keeps_bounds = True
    only_orders = True

    def __init__(self, baseline: Rows, reference: NDArray[np.float64] | None):
        self.reference = reference_point(baseline) if reference is None else torch.as_tensor(reference).double()
        self._taken = _thinned(baseline)
        self._function: qLogNoisyExpectedHypervolumeImprovement | None = None

    def bound(self, pool: CandidatePool) -> NDArray[np.float64]:
        """Rows are evaluated in the order of their best optimistic scalarisation."""
        return optimistic(pool)

    def take(self, rows: Rows) -> None:
        """Add these rows to the labelled ones, at their draws."""
        self._taken = torch.cat([self._taken, _thinned(rows)], dim=1)
        self._function = None

    def gain(self, rows: Rows) -> NDArray[np.float64]:
        """Log of the hypervolume improvement."""
        with torch.no_grad():
            if self._function is None:
                self._function = self._dominated()
            n = self._front.shape[1]
            model = PoolModel(torch.cat([self._front, _thinned(rows)], dim=1))
            self._function.model = model
            return torch.cat([self._function(part) for part in model.rows()[n:].split(_ROWS_TOGETHER)]).numpy()

    def nil(self) -> float:
        """Log of the hypervolume that counts as zero."""
        return NIL

    def value(self, gain: float) -> float:
        """Return the gain itself."""
        return gain

    def _dominated(self) -> qLogNoisyExpectedHypervolumeImprovement:
        """BoTorch's function with the region dominated in each draw; rows on the front of no draw bound no cell."""
        self._front = self._taken[:, is_non_dominated(self._taken).any(dim=0)]
        model = PoolModel(self._front)
        return qLogNoisyExpectedHypervolumeImprovement(
            model,
            ref_point=self.reference,
            X_baseline=model.rows()[:, 0],
            sampler=model.sampler(),
            prune_baseline=False,
            cache_root=False,
        )


class RandomScalarisation:
    """Log expected improvement of an augmented Chebyshev sum with random weights, new for each pick: qLogNParEGO.

    Knowles, IEEE Trans. Evol. Comput. 10, 50 (2006); Daulton et al., arXiv:2006.05078; Ament et al., arXiv:2310.20708.
    """

    kind = Kind.LOG
    needs_draws = True
    keeps_bounds = False
    only_orders = True

    def __init__(self, baseline: Rows, rng: np.random.Generator):
        self._taken = torch.from_numpy(baseline.utility)
        self._rng = rng
        self._draw_weights()

    def bound(self, pool: CandidatePool) -> NDArray[np.float64]:
        """Rows are evaluated in the order of their best optimistic scalarisation."""
        return optimistic(pool)

    def take(self, rows: Rows) -> None:
        """Add these rows to the labelled ones, and draw new weights."""
        self._taken = torch.cat([self._taken, torch.from_numpy(rows.utility)], dim=1)
        self._draw_weights()

    def gain(self, rows: Rows) -> NDArray[np.float64]:
        """Log of the expected improvement of the weighted sum; other weights are tried where none improves."""
        for _ in range(SCALARISATIONS):
            gain = self._improvement(rows)
            if gain.max(initial=-np.inf) > self.nil():
                break
            self._draw_weights()
        return gain

    def _improvement(self, rows: Rows) -> NDArray[np.float64]:
        """QLogNEI on draws of the weighted sum."""
        scalarise = get_chebyshev_scalarization(self._weights, self._taken.double().mean(dim=0))
        baseline, summed = scalarise(self._taken.double()), scalarise(torch.from_numpy(rows.utility).double())
        improvement = ExpectedImprovement(baseline.amax(dim=1), len(baseline))
        return improvement.gain(replace(rows, utility=summed.numpy()))

    def nil(self) -> float:
        """BoTorch's smoothing temperature."""
        return math.log(TAU_RELU)

    def value(self, gain: float) -> float:
        """Return the gain itself."""
        return gain

    def _draw_weights(self) -> None:
        self._weights = torch.from_numpy(self._rng.dirichlet(np.ones(self._taken.shape[-1])))


def _thinned(rows: Rows) -> torch.Tensor:
    """``D x n x m`` utilities of no more than 128 draws, spread over all of them."""
    return torch.from_numpy(rows.utility[:: max(len(rows.utility) // DRAWS, 1)][:DRAWS])


def reference_point(baseline: Rows) -> torch.Tensor:
    """BoTorch's rule: a tenth of the range below the worst utilities (m) of the labelled rows' front."""
    utility = torch.from_numpy(baseline.utility).double().mean(dim=0)
    return infer_reference_point(utility[is_non_dominated(utility)])


def optimistic(pool: CandidatePool) -> NDArray[np.float64]:
    """Best place of each row among all by any of some scalarisations of mean + 2 standard deviations, N."""
    moments = pool.moments
    utility = moments[:, 0] + OPTIMISM * moments[:, 1]
    low, high = utility.min(axis=1, keepdims=True), utility.max(axis=1, keepdims=True)
    utility = (utility - low) / np.maximum(high - low, 1e-300)
    best = np.full(len(pool), -np.inf)
    for weights in np.random.default_rng(0).dirichlet(np.ones(len(utility)), SCALARISATIONS):
        score = (utility * weights[:, None]).min(axis=0) + 0.05 * (utility * weights[:, None]).sum(axis=0)
        place = np.empty(len(score))
        place[np.argsort(-score, kind="stable")] = -np.arange(len(score), dtype=np.float64)
        best = np.maximum(best, place)
    return best
