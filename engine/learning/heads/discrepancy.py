"""Hyperparameters of what one fidelity has beyond a multiple of the one beneath, by penalised likelihood."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from scipy.optimize import minimize
from torch import Tensor

from engine.learning.heads.kernels import LINEAR, SQRT5

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# prior of each hyperparameter, mean and standard deviation, in units of the lowest fidelity's spread
_NOISE = (-4.0, 1.0)
"""Of the logarithm of a label's noise variance; the same as of the lowest fidelity."""
_LENGTH = (0.0, 1.0)
"""Of the logarithm of a length scale."""
_CONSTANT = 1.0
"""Variance of a discrepancy's constant."""


class Expected(NamedTuple):
    """How much a fidelity is expected to differ from the one beneath: priors, mean and standard deviation each."""

    slope: tuple[float, float]
    """Of what the fidelity beneath is multiplied by."""
    amplitude: tuple[float, float]
    """Of the logarithm of a discrepancy's variance, for each Matern kernel."""
    linear: tuple[float, float]
    """Of the logarithm of the factor of the inner product, for each linear kernel."""


OTHER_PROPERTY = Expected((1.0, 0.3), (math.log(0.3), 1.0), (math.log(0.3), 1.5))
"""A cheaper estimate, such as a Debye model's."""
SAME_PROPERTY = Expected((1.0, 0.1), (math.log(0.005), 1.5), (math.log(0.005), 1.5))
"""Other values of the same property, such as published ones: a constant factor apart, and little else unless the labels
say so. With the other priors a few dozen labels of one end of the scale spoil the slope, and with it the ranking."""


class Discrepancy(NamedTuple):
    """Fitted hyperparameters of k kernels, in squared standardised units: a constant, Matern kernels, linear ones."""

    columns: Tensor
    """Where each kernel's columns start and stop, k x 2; the constant's nowhere."""
    lengthscale: Tensor
    outputscale: Tensor
    """Length scale and variance of each kernel (k each), see :class:`engine.learning.heads.kernels.SummedMatern`."""
    slope: Tensor
    """What the fidelity beneath is multiplied by, 1."""
    noise: Tensor
    """Variance of a label's noise, 1."""


def fit_discrepancy(
    x: Tensor,
    target: Tensor,
    below: Tensor,
    covariance: Tensor,
    groups: Sequence[slice],
    expected: Expected = OTHER_PROPERTY,
) -> Discrepancy:
    """Fit slope, kernels and noise to n labels, given those beneath.

    ``x`` are standardised rows (n x d) and ``target`` their standardised values (n); ``below`` (n) and ``covariance``
    (n x n) are the posterior of the fidelity beneath at these rows.
    """
    distances = [torch.cdist(x[:, columns], x[:, columns]) for columns in groups]
    g = len(groups)
    products = [x[:, columns] @ x[:, columns].T for columns in groups]
    priors = [expected.slope, _NOISE, *[expected.amplitude] * g, *[_LENGTH] * g, *[expected.linear] * g]
    start, width = torch.tensor(priors, dtype=torch.float64).T

    def penalty(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        p = torch.tensor(parameters, requires_grad=True)
        slope, noise = p[0], p[1].exp()
        amplitudes, lengths, linear = p[2:].exp().split(g)
        total = slope.square() * covariance + _CONSTANT + noise * torch.eye(len(x), dtype=x.dtype)
        for distance, amplitude, length in zip(distances, amplitudes, lengths, strict=True):
            r = SQRT5 * distance / length
            total = total + amplitude * (1 + r + r.square() / 3) * torch.exp(-r)
        for product, factor in zip(products, linear, strict=True):
            total = total + factor * product
        root = torch.linalg.cholesky(total)
        error = torch.linalg.solve_triangular(root, (target - slope * below)[:, None], upper=False)
        loss = 0.5 * error.square().sum() + root.diagonal().log().sum() + 0.5 * ((p - start) / width).square().sum()
        return loss.item(), torch.autograd.grad(loss, p)[0].numpy()

    bounds = list(zip((start - 5 * width).tolist(), (start + 5 * width).tolist(), strict=True))
    found = minimize(penalty, start.numpy(), jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 100})
    slope, noise, amplitudes, lengths, linear = torch.from_numpy(found.x).split([1, 1, g, g, g])
    return Discrepancy(
        columns=torch.tensor([[0, 0], *[[columns.start, columns.stop] for columns in groups] * 2]),
        lengthscale=torch.cat([torch.ones(1, dtype=x.dtype), lengths.exp(), torch.full_like(lengths, LINEAR)]),
        outputscale=torch.cat([torch.tensor([_CONSTANT], dtype=x.dtype), amplitudes.exp(), linear.exp()]),
        slope=slope,
        noise=noise.exp(),
    )
