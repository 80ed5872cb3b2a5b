"""The candidates of a batch: their rows, the objectives, and the data of rows for acquisition functions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from engine.exceptions import AcquisitionError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.acquire.objectives import Objective
    from engine.posteriors.posterior import PoolPosterior


@dataclass(frozen=True, eq=False)
class Criterion:
    """One property, predicted or known, and its objective."""

    posterior: PoolPosterior
    objective: Objective


@dataclass(frozen=True, eq=False)
class Rows:
    """Data of n rows for an acquisition function.

    ``mean`` and ``std`` (n) and ``draws`` (``D x n``) are those of the first criterion on the model's scale;
    ``utility`` (``D x n``, with several criteria ``D x n x m``) is to be maximised. Draws and utility are empty where
    they were not requested. ``target`` holds the same materials at the target fidelity, if rows have several.
    """

    rows: NDArray[np.int64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    draws: NDArray[np.float32]
    utility: NDArray[np.float32]
    target: Rows | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: NDArray[np.int64]) -> Rows:
        drawn = bool(self.draws.size)
        return Rows(
            self.rows[index],
            self.mean[index],
            self.std[index],
            self.draws[:, index] if drawn else self.draws,
            self.utility[:, index] if drawn else self.utility,
            None if self.target is None else self.target[index],
        )


@dataclass(frozen=True, eq=False)
class CandidatePool:
    """The candidates as something to maximise; positions count candidates, ``rows`` are their rows in the pool."""

    criteria: tuple[Criterion, ...]
    rows: NDArray[np.int64]
    priority: NDArray[np.int64]
    """Random numbers: the smaller wins a tie."""
    chunk: int
    target_of: NDArray[np.int64] | None = None
    """For each row of the pool the row of the same material at the target fidelity."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def posterior(self) -> PoolPosterior:
        """Posterior of the first criterion."""
        return self.criteria[0].posterior

    @property
    def objective(self) -> Objective:
        """Objective of the first criterion."""
        return self.criteria[0].objective

    def chunks(self) -> Iterator[slice]:
        """Positions of one chunk after the other."""
        for start in range(0, len(self), self.chunk):
            yield slice(start, start + self.chunk)

    @cached_property
    def mean_std(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of the first criterion at the target fidelity, each N, on the model's scale."""
        return self._mean_std(self.posterior)

    @cached_property
    def moments(self) -> NDArray[np.float64]:
        """``m x 2 x N``: mean and standard deviation of the utility of each criterion."""
        return np.array([c.objective.moments(*self._mean_std(c.posterior)) for c in self.criteria])

    def marginal(self, beta: float) -> NDArray[np.float64]:
        """Mean utility + sqrt(beta) standard deviations of the first criterion, N."""
        mean, std = self.objective.moments(*self.mean_std)
        return mean + np.sqrt(beta) * std if beta else mean

    def read(self, rows: NDArray[np.int64], drawn: bool, target: bool = True) -> Rows:
        """Data of rows of the pool, with their joint draws if ``drawn``."""
        mean, std = self.posterior.mean_std(rows)
        draws = utility = np.empty((0, 0), dtype=np.float32)
        if drawn:
            tables = [self._draws(c.posterior, rows) for c in self.criteria]
            draws = tables[0]
            utilities = [c.objective.utility(table) for c, table in zip(self.criteria, tables, strict=True)]
            utility = utilities[0] if len(utilities) == 1 else np.stack(utilities, axis=-1)
        at_target = None
        if target and self.target_of is not None:
            at_target = self.read(self.target_of[rows], drawn, target=False)
        return Rows(rows, mean, std, draws, utility, at_target)

    def _draws(self, posterior: PoolPosterior, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        draws = posterior.draws(rows)
        finite = np.isfinite(draws)
        if not finite.all():
            _refuse(rows[~finite.all(axis=0)], "draws")
        return draws

    def _mean_std(self, posterior: PoolPosterior) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        mean, std = np.empty((2, len(self)))
        rows = self.rows if self.target_of is None else self.target_of[self.rows]
        for part in self.chunks():
            mean[part], std[part] = posterior.mean_std(rows[part])
        bad = ~np.isfinite(mean + std)
        if bad.any():
            _refuse(rows[bad], "mean or standard deviation")
        return mean, std


def top(values: NDArray[np.floating], priority: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Positions of the k largest values, best first, ties by priority."""
    keep = np.arange(len(values))
    if k < len(values):
        keep = np.flatnonzero(values >= np.partition(values, len(values) - k)[len(values) - k])
    return keep[np.lexsort((priority[keep], -values[keep]))][:k]


def _refuse(rows: NDArray[np.int64], what: str) -> None:
    raise AcquisitionError(
        f"the {what} of {len(rows)} rows are not finite, first row {rows[0]}; drop the failing member or the rows"
    )
