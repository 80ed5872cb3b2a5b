"""Joint Monte Carlo acquisition functions of BoTorch, conditioned on chosen rows through one number per draw.

Chosen rows enter only by the maximum of their utility in each draw, the ``floor`` of shape D. So the batch
dimension q never grows: expected improvement takes the floor as a per-draw ``best_f``, which is the increment of joint
qEI over the chosen rows (and, with the labelled rows first, noisy expected improvement); the others take the
maximum with it, which is BoTorch's ``X_pending``. Gains fall as the floor rises (submodularity). Rows that rise above
the floor in no draw have no gain and are not evaluated further.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from botorch.acquisition.logei import TAU_RELU, qLogExpectedImprovement
from botorch.acquisition.monte_carlo import (
    SampleReducingMCAcquisitionFunction,
    qProbabilityOfImprovement,
    qUpperConfidenceBound,
)
from scipy.special import ndtr
from torch import Tensor

from engine.acquire.model import PoolModel
from engine.acquire.sequential import Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.acquire.pool import CandidatePool, Rows

BOUND_SPREAD = 1.25
"""Factor on the marginal spread in bounds, since the spread of a few hundred draws differs from the true one."""
SHARPNESS = 0.01
"""Temperature of qPI's step, on the model's scale."""


class ExpectedImprovement:
    """``log E max(f(x) - floor, 0)``: the increment of qLogEI, or of qLogNEI: a natural logarithm.

    Parameters
    ----------
    best
        Best known utility, one number (qLogEI) or one for each draw (qLogNEI: the best of the labelled rows in it).
    """

    kind = Kind.LOG
    needs_draws = True
    keeps_bounds = True
    only_orders = False

    def __init__(self, best: float | Tensor, n_draws: int):
        self.floor = torch.as_tensor(best, dtype=torch.float64).expand(n_draws).clone()

    def bound(self, pool: CandidatePool) -> NDArray[np.float64] | None:
        """Closed form over the lowest floor (Jones, Schonlau, Welch, J. Glob. Optim. 13, 455, 1998)."""
        if pool.objective.kind == "window":
            return None  # not Gaussian
        std, gap = _standardised(pool, self.floor)
        density = np.exp(-0.5 * np.square(gap)) / math.sqrt(2 * math.pi)
        improvement = std * (gap * ndtr(gap) + density)
        return np.log(np.maximum(improvement, 1e-300))

    def gain(self, rows: Rows) -> NDArray[np.float64]:
        """Log of the expected improvement over the floor."""
        draws = torch.from_numpy(rows.utility)
        rising = (draws > self.floor.unsqueeze(-1)).any(dim=0)
        gain = torch.full((draws.shape[1],), -torch.inf, dtype=torch.float64)
        model = PoolModel(draws[:, rising])
        acquisition = qLogExpectedImprovement(model, best_f=self.floor.unsqueeze(-1), sampler=model.sampler())
        with torch.no_grad():
            gain[rising] = acquisition(model.rows())
        return gain.numpy()

    def take(self, rows: Rows) -> None:
        """Raise the floor to the best of these rows in each draw."""
        self.floor = self.floor.maximum(torch.from_numpy(rows.utility).amax(dim=1))

    def nil(self) -> float:
        """BoTorch's smoothing temperature: below it the value measures the smoothing, not an improvement."""
        return math.log(TAU_RELU)

    def value(self, gain: float) -> float:
        """Return the increment itself."""
        return gain


class _Floored:
    """A function whose value of a batch is the mean over draws of the largest utility in it."""

    kind = Kind.POSITIVE
    needs_draws = True
    keeps_bounds = True
    only_orders = False

    def __init__(self, floor: float, n_draws: int):
        self.floor = torch.full((n_draws,), floor, dtype=torch.float64)

    def function(self, model: PoolModel) -> SampleReducingMCAcquisitionFunction:
        """BoTorch's function over these draws."""
        raise NotImplementedError

    def gain(self, rows: Rows) -> NDArray[np.float64]:
        """Increase of the joint value."""
        utility = self._utility(rows)
        return (torch.maximum(utility, self.floor.unsqueeze(-1)).mean(dim=0) - self.floor.mean()).numpy()

    def take(self, rows: Rows) -> None:
        """Raise the floor to the best of these rows in each draw."""
        self.floor = self.floor.maximum(self._utility(rows).amax(dim=1))

    def nil(self) -> float:
        """Increase of the joint value that counts as zero."""
        return TAU_RELU

    def value(self, gain: float) -> float:
        """Joint value of the chosen rows and this one."""
        return gain + self.floor.mean().item()

    def _utility(self, rows: Rows) -> Tensor:
        """BoTorch's own utility of each draw, ``D x n``."""
        model = PoolModel(torch.from_numpy(rows.utility))
        with torch.no_grad():
            return self.function(model)._sample_forward(model.table)[..., 0]


class UpperConfidenceBound(_Floored):
    """``E max(mu + sqrt(beta pi / 2) |f - mu|)`` over chosen and new rows: qUCB.

    Parameters
    ----------
    beta
        Weight of the variance.
    reference
        Value of an empty batch; below the utility of every row, unless only the excess over it is to count.
    """

    def __init__(self, beta: float, reference: float, n_draws: int):
        super().__init__(reference, n_draws)
        self.beta = beta

    def function(self, model: PoolModel) -> qUpperConfidenceBound:
        """BoTorch's function over these draws."""
        return qUpperConfidenceBound(model, self.beta, sampler=model.sampler())

    def bound(self, pool: CandidatePool) -> NDArray[np.float64] | None:
        """``E (mu + s |z| - floor)+`` over the lowest floor, z standard normal and s^2 = beta pi variance / 2."""
        if pool.objective.kind == "window":
            return None
        std, gap = _standardised(pool, self.floor)
        above = std * gap
        if self.beta == 0:
            return np.maximum(above + std - std / BOUND_SPREAD, 0.0)
        size = np.sqrt(self.beta * np.pi / 2) * std
        z = np.maximum(-above / np.where(size > 0, size, 1.0), 0.0)
        tail = 2 * (size * np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi) + np.minimum(above, 0.0) * ndtr(-z))
        return np.where(above >= 0, above + size * math.sqrt(2 / math.pi), tail)


class ProbabilityOfImprovement(_Floored):
    """Probability that the best of chosen and new rows beats the best known value: qPI."""

    def __init__(self, best: float, n_draws: int):
        super().__init__(0.0, n_draws)
        self.best = best

    def function(self, model: PoolModel) -> qProbabilityOfImprovement:
        """BoTorch's function over these draws."""
        return qProbabilityOfImprovement(model, self.best, sampler=model.sampler(), tau=SHARPNESS)

    def bound(self, pool: CandidatePool) -> NDArray[np.float64] | None:
        """Gaussian probability of improvement, an upper bound (Kushner, J. Basic Eng. 86, 97, 1964)."""
        if pool.objective.kind == "window":
            return None
        best = torch.as_tensor(self.best - SHARPNESS, dtype=torch.float64)
        return BOUND_SPREAD * ndtr(_standardised(pool, best)[1])

    def nil(self) -> float:
        """Half a draw: smaller values come from the smoothing of the step."""
        return 0.5 / len(self.floor)


def _standardised(pool: CandidatePool, floor: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Inflated spread of each row's utility, and the excess of its mean over the lowest floor in these spreads."""
    mean, std = pool.moments[0]
    std = np.maximum(BOUND_SPREAD * std, 1e-12)
    return std, (mean - float(floor.min())) / std
