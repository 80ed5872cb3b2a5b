"""Joint acquisition functions of BoTorch, conditioned on pending and chosen rows through one number per draw.

Both functions see what is already taken only as the maximum of its utility in each draw, the ``floor`` of shape S. So
the batch dimension q never grows: qLogEI takes the floor as a per-draw ``best_f``, which is the increment of joint qEI
over the taken rows; qUCB takes the maximum with it, which is BoTorch's ``X_pending``. Both gains fall as the floor
rises (submodularity), so a gain computed earlier bounds a later one: :mod:`engine.acquire.batch` relies on that.
Rows that rise above the floor in no draw gain nothing and are not evaluated further.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from botorch.acquisition.logei import TAU_RELU, qLogExpectedImprovement
from botorch.acquisition.monte_carlo import qUpperConfidenceBound
from torch import Tensor

from engine.acquire.table import EnsembleTable


class JointAcquisition(Protocol):
    """A Monte Carlo acquisition function over ``S x n`` draws (to be maximised)."""

    def utility(self, draws: Tensor) -> Tensor:
        """``S x n`` utility of each draw; the floor is its maximum over taken rows."""

    def gain(self, draws: Tensor, floor: Tensor) -> Tensor:
        """Gain of each of the n rows over the taken ones, whose best in each draw is the floor (S)."""

    def nil(self, floor: Tensor) -> float:
        """Gain below which the arithmetic resolves nothing."""

    def value(self, gain: float, floor: Tensor) -> float:
        """Acquisition value to report for a row with this gain."""


class LogExpectedImprovement:
    """``log E max(f(x) - floor, 0)``: qLogEI's increment, natural logarithm of log10 kappa."""

    def utility(self, draws: Tensor) -> Tensor:
        """Improvement is measured on the draws themselves."""
        return draws

    def gain(self, draws: Tensor, floor: Tensor) -> Tensor:
        """Log of the expected improvement over the floor."""
        rising = (draws > floor.unsqueeze(-1)).any(dim=0)
        gain = torch.full((draws.shape[1],), -torch.inf, dtype=torch.float64)
        table = EnsembleTable(draws[:, rising])
        acquisition = qLogExpectedImprovement(table, best_f=floor.unsqueeze(-1), sampler=table.sampler())
        with torch.no_grad():
            gain[rising] = acquisition(table.rows())
        return gain

    def nil(self, floor: Tensor) -> float:
        """BoTorch's smoothing temperature: below it the value measures the smoothing, not an improvement."""
        return math.log(TAU_RELU)

    def value(self, gain: float, floor: Tensor) -> float:
        """Return the increment itself."""
        return gain


class UpperConfidenceBound:
    """``E max(mu + sqrt(beta pi / 2) |f - mu|)`` over taken and new rows: qUCB."""

    def __init__(self, beta: float):
        self.beta = beta

    def utility(self, draws: Tensor) -> Tensor:
        """``mu + sqrt(beta pi / 2) |f - mu|`` of each draw."""
        return _FlooredUpperConfidenceBound(draws, self.beta, torch.tensor(-torch.inf)).utility(draws)

    def gain(self, draws: Tensor, floor: Tensor) -> Tensor:
        """Rise of the joint value; with nothing taken (a floor of -inf) the value itself."""
        rising = (self.utility(draws) > floor.unsqueeze(-1)).any(dim=0)
        gain = torch.zeros(draws.shape[1], dtype=torch.float64)
        acquisition = _FlooredUpperConfidenceBound(draws[:, rising], self.beta, floor)
        with torch.no_grad():
            gain[rising] = acquisition(acquisition.model.rows()) - _level(floor)
        return gain

    def nil(self, floor: Tensor) -> float:
        """Rise of the joint value too small to matter; the first row is taken whatever its value."""
        return TAU_RELU if torch.isfinite(floor).all() else -torch.inf

    def value(self, gain: float, floor: Tensor) -> float:
        """Joint qUCB of the taken rows and this one."""
        return gain + _level(floor)


def joint_acquisition(name: str, beta: float) -> JointAcquisition:
    """Joint acquisition function of this name."""
    return UpperConfidenceBound(beta) if name == "qUCB" else LogExpectedImprovement()


class _FlooredUpperConfidenceBound(qUpperConfidenceBound):
    """BoTorch's qUCB whose pending rows have been reduced to their maximum in each draw."""

    def __init__(self, draws: Tensor, beta: float, floor: Tensor):
        table = EnsembleTable(draws)
        super().__init__(table, beta, sampler=table.sampler())
        self.floor = floor

    def utility(self, draws: Tensor) -> Tensor:
        """BoTorch's own utility of each draw."""
        return super()._sample_forward(draws)

    def _sample_forward(self, obj: Tensor) -> Tensor:
        """``S x n x 1`` utilities, none below the floor."""
        return torch.maximum(self.utility(obj), self.floor.view(-1, 1, 1))


def _level(floor: Tensor) -> float:
    """Acquisition value of the taken rows; nothing when nothing is taken."""
    return floor.mean().item() if torch.isfinite(floor).all() else 0.0
