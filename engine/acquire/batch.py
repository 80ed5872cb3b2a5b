"""A batch from the whole pool: sequential greedy, exact, in memory bounded by a chunk plus a few numbers a row.

Joint acquisition functions are monotone submodular, so what a row would have gained earlier bounds what it gains now:
lazy greedy (Minoux, Optimization Techniques, 234, 1978) re-evaluates only rows whose bound could still win. The pool is
streamed once for the bounds, and again only when too many rows outside the shortlist could win.

A maximum over D draws runs out of information as the batch grows. When no row gains anything that the arithmetic
resolves, the batch goes on by the marginal upper confidence bound and says so; exact ties fall to a seeded permutation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from engine.acquire.functions import AcquisitionFunction, Needs, acquisition_function
from engine.exceptions import AcquisitionError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from engine.acquire.montecarlo import JointAcquisition
    from engine.acquire.posterior import PoolPosterior

SHORTLIST = 512  # rows whose draws are kept; grows fourfold when a row outside could win
LAZY_BLOCK = 64  # rows re-evaluated at a time
FALLBACK = "ucb"
TIE = 1e-12  # gains closer than this differ by rounding only


@dataclass(frozen=True, eq=False)
class Batch:
    """Chosen rows in order; the value of each when it was chosen; the rule that chose it; what deserves saying.

    Values are those of the rule, to be maximised: qLogEI the natural logarithm of the conditional expected improvement
    in log10 kappa; qUCB the joint value of pending and chosen rows; ucb, greedy and thompson log10 kappa, negated when
    the goal is ``min``; random zero.
    """

    rows: NDArray[np.int64]
    values: NDArray[np.float64]
    rules: tuple[str, ...]
    notes: tuple[str, ...]


def choose_batch(
    posterior: PoolPosterior,
    *,
    goal: str,
    acquisition: str,
    q: int,
    candidates: NDArray[np.int64],
    rng: np.random.Generator,
    best: float | None = None,
    pending: NDArray[np.int64] | None = None,
    chunk: int = 16_384,
    beta: float = 1.0,
) -> Batch:
    """Choose q rows among the candidates that are not pending.

    Parameters
    ----------
    posterior
        Calibrated posterior over the pool, log10 kappa.
    goal
        ``min`` or ``max``.
    acquisition
        Name of an acquisition function (:data:`engine.acquire.functions.FUNCTIONS`).
    q
        Rows to choose.
    candidates
        Rows that may be chosen (those that pass the constraints and have no label).
    rng
        Breaks exact ties; also ``random`` and the order of ``thompson``'s draws.
    best
        Best known log10 kappa, the incumbent of qLogEI; without one the best predicted mean stands in, with a note.
    pending
        Rows queued or running: never chosen; qLogEI and qUCB condition on them. The marginal rules and ``thompson`` do
        not depend on them.
    chunk
        Rows whose draws are held at once; past the processor's cache larger is slower.
    beta
        Weight of the variance in qUCB and ucb.
    """
    function = acquisition_function(acquisition)
    taken = np.unique(np.asarray([] if pending is None else pending, dtype=np.int64))
    free = np.setdiff1d(np.asarray(candidates, dtype=np.int64), taken)
    _check_request(posterior, goal, q, beta, best, free, taken, candidates)
    pool = _Pool(posterior, 1.0 if goal == "max" else -1.0, free, rng.permutation(len(free)), chunk, beta)
    if function.needs is Needs.JOINT:
        return _joint(pool, function, q, None if best is None else pool.sign * best, taken)
    if function.needs is Needs.DRAW:
        return _thompson(pool, q, rng)
    if function.needs is Needs.MARGINAL:
        return _marginal(pool, function.name, q)
    return Batch(free[np.argsort(pool.priority)[:q]], np.zeros(q), (function.name,) * q, ())


@dataclass(frozen=True, eq=False)
class _Pool:
    """The candidates as something to maximise; positions count candidates, ``rows`` are their rows in the pool."""

    posterior: PoolPosterior
    sign: float
    rows: NDArray[np.int64]
    priority: NDArray[np.int64]  # a permutation: the smaller wins a tie
    chunk: int
    beta: float

    def __len__(self) -> int:
        return len(self.rows)

    def chunks(self) -> Iterator[slice]:
        """Positions of one chunk after the other."""
        for start in range(0, len(self), self.chunk):
            yield slice(start, start + self.chunk)

    def without(self, positions: NDArray[np.int64]) -> _Pool:
        """Leave some positions out."""
        return replace(self, rows=np.delete(self.rows, positions), priority=np.delete(self.priority, positions))

    def draws(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """``D x len(rows)`` draws, larger is better."""
        draws = self.posterior.draws(rows)
        finite = np.isfinite(draws)
        if not finite.all():
            _refuse_rows(rows[~finite.all(axis=0)], "draws")
        return -draws if self.sign < 0 else draws

    def marginal(self, name: str) -> NDArray[np.float64]:
        """Mean of each row, or for ``ucb`` mean + sqrt(beta) std; larger is better."""
        values = np.empty(len(self))
        for part in self.chunks():
            mean, std = self.posterior.mean_std(self.rows[part])
            finite = np.isfinite(mean) & np.isfinite(std)
            if not finite.all():
                _refuse_rows(self.rows[part][~finite], "mean or standard deviation")
            values[part] = self.sign * mean + (np.sqrt(self.beta) * std if name == "ucb" else 0.0)
        return values


def _marginal(pool: _Pool, name: str, q: int) -> Batch:
    """Take the q best rows by mean or upper confidence bound."""
    values = pool.marginal(name)
    top = _top(values, pool.priority, q)
    return Batch(pool.rows[top], values[top], (name,) * q, _tie_notes(values, top, name))


def _thompson(pool: _Pool, q: int, rng: np.random.Generator) -> Batch:
    """Each pick is the best row of one draw; a draw whose best row is taken is passed over for the next draw.

    When all draws have been used the second-best row of each is offered, then the third, ...
    """
    ranked = _best_of_each_draw(pool, max(q, 2))
    order = rng.permutation(len(ranked))
    chosen: dict[int, float] = {}
    depth = 0
    for depth in range(q):
        for draw in order:
            if len(chosen) < q:
                value, position = ranked[draw][0][depth], ranked[draw][1][depth]
                chosen.setdefault(int(position), float(value))
        if len(chosen) == q:
            break
    notes = []
    tied = sum(len(values) > 1 and values[0] == values[1] for values, _ in ranked)
    if tied:
        notes.append(f"thompson: the best rows of {tied} of {len(ranked)} draws tie; broken by a seeded permutation")
    if depth:
        notes.append(
            f"thompson: {len(ranked)} draws have fewer than {q} different best rows; went on to rows ranked up to "
            f"{depth + 1} in their draw"
        )
    positions = np.fromiter(chosen, dtype=np.int64)
    return Batch(pool.rows[positions], np.fromiter(chosen.values(), float), ("thompson",) * q, tuple(notes))


def _best_of_each_draw(pool: _Pool, k: int) -> list[tuple[NDArray[np.float64], NDArray[np.int64]]]:
    """Values and positions of the k best rows of every draw, best first, over the streamed pool."""
    ranked = [(np.empty(0), np.empty(0, dtype=np.int64))] * pool.posterior.n_draws
    for part in pool.chunks():
        positions = np.arange(len(pool))[part]
        for d, draw in enumerate(pool.draws(pool.rows[part])):
            keep = _top(draw, pool.priority[part], k)
            values = np.concatenate([ranked[d][0], draw[keep]])
            where = np.concatenate([ranked[d][1], positions[keep]])
            top = _top(values, pool.priority[where], k)
            ranked[d] = (values[top], where[top])
    return ranked


def _joint(pool: _Pool, function: AcquisitionFunction, q: int, best: float | None, taken: NDArray[np.int64]) -> Batch:
    """Sequential greedy on a joint acquisition function, ending with the fallback when nothing more can be gained."""
    from engine.acquire.montecarlo import joint_acquisition

    notes: list[str] = []
    if best is None and function.name == "qLogEI":
        best = float(pool.marginal("greedy").max())
        notes.append(f"qLogEI: no value is known yet; the best predicted mean, log10 {pool.sign * best:.3g}, stands in")
    greedy = _LazyGreedy(pool, joint_acquisition(function.name, pool.beta), -np.inf if best is None else best, taken)
    ties = 0
    while len(greedy.chosen) < q:
        tied = greedy.advance()
        if tied is None:
            break
        ties += tied > 0
    if ties:
        notes.append(f"{function.name}: {ties} of {q} picks tied exactly; broken by a seeded permutation")
    rows, values = pool.rows[np.array(greedy.chosen, dtype=np.int64)], np.array(greedy.values, dtype=np.float64)
    rules = (function.name,) * len(rows)
    if len(rows) < q:
        notes.append(
            f"{function.name}: from pick {len(rows) + 1} on no candidate adds anything that the "
            f"{pool.posterior.n_draws} joint draws resolve; those picks are ranked by {FALLBACK} (beta {pool.beta:g})"
        )
        rest = _marginal(pool.without(np.array(greedy.chosen, dtype=np.int64)), FALLBACK, q - len(rows))
        rows, values = np.concatenate([rows, rest.rows]), np.concatenate([values, rest.values])
        rules, notes = rules + rest.rules, notes + list(rest.notes)
    return Batch(rows, values, rules, tuple(notes))


class _LazyGreedy:
    """Greedy maximisation with stale gains as upper bounds: ``bounds`` for all N, draws for a shortlist only."""

    def __init__(self, pool: _Pool, acquisition: JointAcquisition, best: float, taken: NDArray[np.int64]):
        import torch

        self.pool, self.acquisition = pool, acquisition
        self.chosen: list[int] = []
        self.values: list[float] = []
        self.floor = torch.full((pool.posterior.n_draws,), float(best), dtype=torch.float64)
        for start in range(0, len(taken), pool.chunk):
            self._raise_floor(self._draws(taken[start : start + pool.chunk]))
        self._forget_bounds()

    def advance(self) -> int | None:
        """Choose one more row; the number of other rows that tied with it, or ``None`` when all gains are nil."""
        gain, winners = self._winners()
        if gain < self.acquisition.nil(self.floor):
            return None
        winner = winners[np.argmin(self.pool.priority[self.shortlist[winners]])]
        position = int(self.shortlist[winner])
        self.chosen.append(position)
        self.values.append(self.acquisition.value(gain, self.floor))
        self.bounds[position] = -np.inf
        unbounded = self.floor[0].item() == -np.inf
        self._raise_floor(self.draws[:, [winner]])
        if unbounded:
            self._forget_bounds()  # a gain over nothing bounds no gain over something
        return len(winners) - 1

    def _winners(self) -> tuple[float, NDArray[np.int64]]:
        """Find the largest gain in the whole pool and its shortlist positions (several when they tie)."""
        while True:
            gain, winners = self._evaluate_shortlist()
            rival = max(gain - TIE, self.acquisition.nil(self.floor))
            if self.outside < rival or self.current:
                return gain, winners
            if 0 < len(self.shortlist) <= self.pool.chunk // 4:
                self._shortlist(4 * len(self.shortlist))
            else:
                self._stream(rival)

    def _evaluate_shortlist(self) -> tuple[float, NDArray[np.int64]]:
        """Re-evaluate rows in the order of their bounds until no stale bound could win."""
        stale = np.isfinite(self.bounds[self.shortlist])
        fresh = np.zeros(len(stale), dtype=bool)
        block, gain = LAZY_BLOCK, -np.inf
        while True:
            bounds = self.bounds[self.shortlist]
            hopeful = np.flatnonzero(stale & (bounds >= max(gain - TIE, self.acquisition.nil(self.floor))))
            if len(hopeful) == 0:
                return gain, np.flatnonzero(fresh & (bounds >= gain - TIE))
            todo = hopeful[np.argsort(-bounds[hopeful], kind="stable")[:block]]
            gains = self.acquisition.gain(self.draws[:, todo], self.floor).numpy()
            self.bounds[self.shortlist[todo]] = gains
            stale[todo], fresh[todo] = False, True
            gain, block = max(gain, float(gains.max())), 2 * block

    def _stream(self, rival: float) -> None:
        """Bring every bound that could win up to date, chunk by chunk; then make a new shortlist."""
        hopeful = np.flatnonzero(self.bounds >= rival)
        for start in range(0, len(hopeful), self.pool.chunk):
            part = hopeful[start : start + self.pool.chunk]
            self.bounds[part] = self.acquisition.gain(self._draws(self.pool.rows[part]), self.floor).numpy()
        self._shortlist(SHORTLIST)
        self.current = True

    def _shortlist(self, size: int) -> None:
        """Keep the draws of the rows with the largest bounds."""
        top = _top(self.bounds, self.pool.priority, size + 1)
        self.shortlist = top[:size]
        self.outside = float(self.bounds[top[size]]) if len(top) > size else -np.inf
        self.draws = self._draws(self.pool.rows[self.shortlist])

    def _forget_bounds(self) -> None:
        """Know nothing of any row not chosen; the next look streams the pool."""
        self.bounds = np.full(len(self.pool), np.inf)
        self.bounds[self.chosen] = -np.inf
        self.shortlist, self.outside, self.current = np.empty(0, dtype=np.int64), np.inf, False

    def _raise_floor(self, draws: Tensor) -> None:
        self.floor = self.floor.maximum(self.acquisition.utility(draws).amax(dim=1))
        self.current = False

    def _draws(self, rows: NDArray[np.int64]) -> Tensor:
        import torch

        return torch.from_numpy(self.pool.draws(rows))


def _top(values: NDArray[np.floating], priority: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Positions of the k largest values, best first, ties by priority."""
    keep = np.arange(len(values))
    if k < len(values):
        keep = np.flatnonzero(values >= np.partition(values, len(values) - k)[len(values) - k])
    return keep[np.lexsort((priority[keep], -values[keep]))][:k]


def _tie_notes(values: NDArray[np.float64], top: NDArray[np.int64], name: str) -> tuple[str, ...]:
    """Say when the value of a chosen row equals another row's exactly."""
    contenders, counts = np.unique(values[values >= values[top[-1]]], return_counts=True)
    tied = np.count_nonzero(np.isin(values[top], contenders[counts > 1]))
    if not tied:
        return ()
    return (f"{name}: {tied} of {len(top)} picks tie exactly with another row; broken by a seeded permutation",)


def _check_request(
    posterior: PoolPosterior,
    goal: str,
    q: int,
    beta: float,
    best: float | None,
    free: NDArray[np.int64],
    taken: NDArray[np.int64],
    candidates: NDArray[np.int64],
) -> None:
    """Refuse what cannot be met before anything expensive."""
    if goal not in {"min", "max"}:
        raise AcquisitionError(f"unknown goal {goal!r}; use 'min' or 'max'")
    if q < 1:
        raise AcquisitionError(f"a batch of {q} rows cannot be chosen; ask for at least 1")
    if beta < 0:
        raise AcquisitionError(f"beta is {beta}, a weight of the variance; use 0 or more")
    if best is not None and not np.isfinite(best):
        raise AcquisitionError(f"the best known log10 value is {best}; pass a finite number, or None")
    for rows in (free, taken):
        if len(rows) and not 0 <= rows[0] <= rows[-1] < posterior.n_rows:
            raise AcquisitionError(f"rows {rows[0]} to {rows[-1]} do not lie in the pool of {posterior.n_rows} rows")
    if q > len(free):
        raise AcquisitionError(
            f"pool smaller than the batch: {q} asked, {len(free)} can be chosen ({len(candidates)} candidates, "
            f"{len(np.unique(candidates)) - len(free)} of them pending); ask for a smaller batch, add candidates or "
            "relax a constraint"
        )


def _refuse_rows(rows: NDArray[np.int64], what: str) -> None:
    raise AcquisitionError(
        f"the {what} of {len(rows)} rows are not finite, first row {rows[0]}; drop the failing member or the rows"
    )
