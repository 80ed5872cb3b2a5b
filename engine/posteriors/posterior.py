"""Posteriors over a pool: marginals and joint draws for any of its rows.

The draws of an ensemble are those of a low-rank Gaussian fitted to its members,

    f_d(x) = mean(x) + scale * [ sum_k z_dk (m_k(x) - mean(x)) / sqrt(S - 1) + e_d(x) within(x) ],

``z`` shared by all rows (joint disagreement of the members), ``e`` independent from row to row (the noise that each
member predicts). ``z`` is centred and whitened, so that D draws reproduce the covariance of the members exactly
(moment matching, Barraquand, Management Science 41, 1882, 1995). A Gaussian instead of the members themselves, because
a batch larger than the ensemble exhausts S draws after S picks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from engine.exceptions import AcquisitionError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

MIN_MEMBERS = 3
"""Fewest members left for an ensemble once one has failed."""
NOISE_BLOCK = 16  # rows that share one random stream: small enough to fetch single rows, large enough to be fast


class PoolPosterior(Protocol):
    """A calibrated posterior over the rows ``0 .. n_rows - 1`` of a pool, on the model's scale (log10 or linear)."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user, such as a member that was left out."""

    @property
    def n_rows(self) -> int:
        """Number of rows of the pool."""

    @property
    def n_draws(self) -> int:
        """Number D of joint draws."""

    def mean_std(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Calibrated marginal mean and standard deviation on the model's scale, each ``len(rows)``."""

    def draws(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """``D x len(rows)`` joint draws on the model's scale.

        The same D functions whatever the rows: a row's draws do not depend on which other rows are requested, so that
        rows of different chunks are jointly consistent.
        """


@dataclass(frozen=True, eq=False)
class _Marginals:
    """Mean and standard deviation of N rows, on the model's scale."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    @property
    def n_rows(self) -> int:
        """Number of rows of the pool."""
        return len(self.mean)

    def mean_std(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Marginal mean and standard deviation of these rows."""
        return self.mean[rows], self.std[rows]


@dataclass(frozen=True, eq=False)
class MemberPosterior(_Marginals):
    """An ensemble's posterior that stores ``(S + 3) N`` numbers and makes draws on request: for pools of any size.

    Build it with :meth:`from_members`.
    """

    deviations: NDArray[np.float32]  # S x N, scaled so that the squares of a row sum to the variance between members
    within: NDArray[np.float32]  # N, standard deviation within members
    weights: NDArray[np.float32]  # D x S, the shared z
    key: int  # of the independent part
    notes: tuple[str, ...] = ()  # for the user, such as a member left out

    @property
    def n_draws(self) -> int:
        """Number D of joint draws."""
        return len(self.weights)

    def draws(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """``D x len(rows)`` draws of these rows."""
        draws = np.repeat(self.mean[rows].astype(np.float32)[None], self.n_draws, axis=0)
        for weight, deviation in zip(self.weights.T, self.deviations[:, rows], strict=True):
            draws += weight[:, None] * deviation  # no matrix product: its rounding depends on the other rows
        if self.within.any():
            draws += _row_noise(self.key, rows, self.n_draws) * self.within[rows]
        return draws

    @classmethod
    def from_members(
        cls,
        member_mean: NDArray[np.float64],
        member_std: NDArray[np.float64] | None = None,
        *,
        scale: float = 1.0,
        n_draws: int = 128,
        rng: np.random.Generator,
    ) -> MemberPosterior:
        """Fit the Gaussian to ``S x N`` member means and within-member standard deviations (model's scale).

        ``scale`` is the calibration factor of the total standard deviation; ``member_std`` may be ``None`` where
        members predict no spread. A member with a prediction that is not finite is left out, with a note in
        :attr:`notes`.

        Raises
        ------
        AcquisitionError
            With fewer than 3 members left, or no more draws than members.
        """
        members, spread, notes = finite_members(member_mean, member_std)
        n_members = len(members)
        if n_draws <= n_members:
            raise AcquisitionError(f"{n_draws} draws cannot represent {n_members} members; ask for more draws")
        mean = members.mean(axis=0)
        deviations = scale * (members - mean) / np.sqrt(max(n_members - 1, 1))
        within = np.zeros_like(mean) if spread is None else scale * np.sqrt(np.square(spread).mean(axis=0))
        return cls(
            mean=mean,
            std=np.sqrt(np.square(deviations).sum(axis=0) + within**2),
            deviations=deviations.astype(np.float32),
            within=within.astype(np.float32),
            weights=_whitened_normals(n_draws, n_members, rng).astype(np.float32),
            key=int(rng.integers(2**63)),
            notes=notes,
        )


@dataclass(frozen=True, eq=False)
class Fidelities:
    """One pool of N rows at T fidelities as a pool of T x N rows, the target fidelity first; jointly drawn."""

    parts: tuple[PoolPosterior, ...]
    """Posteriors of one pool with the same draws, one for each fidelity; the first is of the target fidelity."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes of all fidelities, each once."""
        return tuple(dict.fromkeys(note for part in self.parts for note in part.notes))

    @property
    def n_rows(self) -> int:
        """Number of rows of the pool, at every fidelity."""
        return sum(part.n_rows for part in self.parts)

    @property
    def n_draws(self) -> int:
        """Number D of joint draws."""
        return self.parts[0].n_draws

    def mean_std(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of these rows, each of its own fidelity."""
        mean, std = np.empty((2, len(rows)))
        for part, chosen, own in self._split(rows):
            mean[chosen], std[chosen] = part.mean_std(own)
        return mean, std

    def draws(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """``D x len(rows)`` joint draws, each row of its own fidelity."""
        table = np.empty((self.n_draws, len(rows)), dtype=np.float32)
        for part, chosen, own in self._split(rows):
            table[:, chosen] = part.draws(own)
        return table

    def _split(self, rows: NDArray[np.int64]) -> Iterator[tuple[PoolPosterior, NDArray[np.int64], NDArray[np.int64]]]:
        """For each fidelity among these rows: its posterior, positions of the rows, and their rows in its pool."""
        level, own = np.divmod(rows, self.parts[0].n_rows)
        for k, part in enumerate(self.parts):
            chosen = np.flatnonzero(level == k)
            if len(chosen):
                yield part, chosen, own[chosen]


@dataclass(frozen=True, eq=False)
class KnownValues:
    """A known property as a posterior without spread: a criterion besides predicted ones."""

    values: NDArray[np.float64]
    n_draws: int
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse missing values."""
        missing = np.flatnonzero(~np.isfinite(self.values))
        if len(missing):
            raise AcquisitionError(
                f"{len(missing)} rows lack a known property, first row {missing[0]}; leave them out by a constraint "
                "with missing = 'drop', or predict the property"
            )

    @property
    def n_rows(self) -> int:
        """Number of rows of the pool."""
        return len(self.values)

    def mean_std(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Values of these rows, and zeros as standard deviations."""
        return self.values[rows], np.zeros(len(rows))

    def draws(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """``D x len(rows)``; every draw is the known value."""
        return np.repeat(self.values[rows].astype(np.float32)[None], self.n_draws, axis=0)


def finite_members(
    mean: NDArray[np.float64], std: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None, tuple[str, ...]]:
    """Leave out members (of ``S x N``) that predict something not finite; returns the others, with a note.

    Raises
    ------
    AcquisitionError
        If that leaves fewer than 3.
    """
    mean = np.asarray(mean, dtype=np.float64)
    good = np.isfinite(mean).all(axis=1)
    if std is not None:
        std = np.asarray(std, dtype=np.float64)
        good &= np.isfinite(std).all(axis=1)
    if good.all():
        return mean, std, ()
    failed = ", ".join(str(k) for k in np.flatnonzero(~good))
    if good.sum() < MIN_MEMBERS:
        raise AcquisitionError(
            f"member {failed} of {len(mean)} predicts values that are not finite, and the {good.sum()} left are fewer "
            f"than {MIN_MEMBERS}; train the ensemble again"
        )
    note = f"member {failed} of {len(mean)} predicts values that are not finite and is left out"
    return mean[good], None if std is None else std[good], (note,)


def _whitened_normals(n_draws: int, n_members: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """``D x S`` standard normals with sample mean 0 and sample covariance 1."""
    z = rng.standard_normal((n_draws, n_members))
    z -= z.mean(axis=0)
    return np.linalg.solve(np.linalg.cholesky(z.T @ z / n_draws), z.T).T


def _row_noise(key: int, rows: NDArray[np.int64], n_draws: int) -> NDArray[np.float32]:
    """``D x len(rows)`` standard normals that depend on the key and each row's number alone.

    Philox is counter-based (Salmon et al., SC'11): every block of rows has its own counter, hence its own stream.
    """
    blocks, offsets = np.divmod(np.asarray(rows, dtype=np.int64), NOISE_BLOCK)
    noise = np.empty((len(rows), n_draws), dtype=np.float32)
    order = np.argsort(blocks, kind="stable")
    found, starts = np.unique(blocks[order], return_index=True)
    philox = np.random.Philox(key=key)
    stream, state = np.random.Generator(philox), philox.state
    for block, members in zip(found.tolist(), np.split(order, starts[1:]), strict=True):
        state["state"]["counter"][3] = block
        philox.state = state
        noise[members] = stream.standard_normal((NOISE_BLOCK, n_draws), dtype=np.float32)[offsets[members]]
    return noise.T
