"""An ensemble: K members on one backbone, calibrated on what each of them did not see, and its posterior over a pool.

All values are in learned units: log10 for properties that span decades, linear otherwise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.learning.ensemble.records import SEEN_DIGITS
from engine.learning.features.featuriser import CHUNK, chunks
from engine.learning.heads.members import LOWER_FIDELITY, TARGET_FIDELITY
from engine.learning.networks.graph_data import Crystals
from engine.metrics.extrapolation import TrainingDistance, VarianceInflation
from engine.posteriors.posterior import MemberPosterior, PoolPosterior

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.learning.backbones.stack import AnyBackbone, AnyFeaturiser
    from engine.learning.ensemble.settings import EnsembleSettings, Scale
    from engine.learning.ensemble.stacking import Stacking
    from engine.learning.heads.members import AnyMembers, MemberFunctions


@dataclass(frozen=True, eq=False)
class MemberTable:
    """Predictions of S members for N crystals in learned units: ``mean`` and ``std`` are S x N.

    ``std`` is each member's own spread for a new label; a member that predicts none carries the root mean square of its
    held-out errors.
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    def total(self, calibration: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and calibrated standard deviation (between and within members), each N."""
        variance = self.mean.var(axis=0, ddof=1) + np.square(self.std).mean(axis=0)
        return self.mean.mean(axis=0), calibration * np.sqrt(variance)


@dataclass(frozen=True, eq=False)
class Ensemble:
    """A trained, calibrated ensemble."""

    backbone: AnyBackbone
    settings: EnsembleSettings
    property: str
    scale: Scale
    members: AnyMembers
    noise: tuple[float, ...]
    """Root mean square of each member's held-out errors, in learned units."""
    calibration: float
    """Factor of the standard deviation, by held-out errors."""
    metrics: dict[str, Any]
    """Cross-validated, for the model and the baselines on the same folds."""
    data_hash: str
    seen: tuple[str, ...]
    """First 12 hex digits of the content hash of every crystal it was trained on, so that leaks can be found."""
    lower_fidelity: Ensemble | None = None
    """Model of a lower fidelity that the members stand on."""
    stacking: Stacking | None = None
    """Networks or trees beside the members, where they have a weight in the mean."""
    variance_inflation: VarianceInflation = field(default_factory=VarianceInflation)
    """Factor of the standard deviation far from the training rows, by distance."""
    distance: TrainingDistance | None = None
    """Distance to the training rows, where the factor depends on it."""
    held_out: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 2)), repr=False)
    """n x 2: mean and calibrated std of each training row from the member that had not seen it; not kept on disk."""

    def predict(self, featuriser: AnyFeaturiser, keys: Sequence[str], fidelity: str = TARGET_FIDELITY) -> MemberTable:
        """Members' predictions for crystals that ``featuriser`` holds, a chunk in memory at a time.

        Far from the training rows, members are moved apart and their own standard deviations grow, both by one factor.
        ``fidelity`` may be ``LOWER_FIDELITY`` for members that stand on one, and
        :func:`engine.learning.heads.members.fidelity_beneath` names further ones.
        """
        mean, std = np.empty((2, len(self.noise), len(keys)))
        for start, part in zip(range(0, len(keys), CHUNK), chunks(keys), strict=True):
            columns = slice(start, start + len(part))
            mean[:, columns], std[:, columns] = self._predict_chunk(Crystals(featuriser, part), fidelity)
        return MemberTable(mean, std)

    def information_ratio(
        self, featuriser: AnyFeaturiser, keys: Sequence[str], fidelity: str = LOWER_FIDELITY
    ) -> NDArray[np.float64]:
        """Variance that a label of a lower fidelity would take, in units of what a crystal's own label would take, N.

        The mean over the members, which have to stand on that fidelity (as :meth:`predict`).
        """
        return self.members.information_ratio(featuriser.embeddings(keys), fidelity)

    def without(self, keys: Sequence[str], embeddings: NDArray[np.float32]) -> Ensemble:
        """The ensemble without its labels of these crystals (N content hashes and embeddings, N x d), to stand on.

        Labels of another fidelity of the same crystals then tell how the fidelities differ by what neither has seen:
        a published value that is imported again would agree with itself.
        """
        dropped = {key[:SEEN_DIGITS] for key in keys}
        text = "\n".join([self.data_hash, *sorted(dropped)])
        return replace(
            self,
            members=self.members.without(keys, embeddings),
            data_hash=hashlib.sha256(text.encode()).hexdigest(),
            seen=tuple(key for key in self.seen if key not in dropped),
            stacking=None,
        )

    def inflation_factors(self, crystals: Crystals) -> NDArray[np.float64]:
        """Factor of the standard deviation of each crystal by its distance to the training rows, N, at least 1."""
        if self.distance is None:
            return np.ones(len(crystals))
        return self.variance_inflation(self.distance(crystals.embeddings))

    def posterior(self, featuriser: AnyFeaturiser, keys: Sequence[str], n_draws: int, seed: int) -> PoolPosterior:
        """Calibrated joint posterior over a pool, as the acquisition reads it.

        Of members that stand on lower fidelities, ``at`` gives the same rows at one of them.
        """
        functions = self.members.functions(n_draws, seed)
        if functions is not None:
            return FunctionPosterior(self, featuriser, keys, functions)
        table = self.predict(featuriser, keys)
        rng = np.random.default_rng(seed)
        return MemberPosterior.from_members(table.mean, table.std, scale=self.calibration, n_draws=n_draws, rng=rng)

    def stacked(self, mean: NDArray[np.float64], crystals: Crystals, fidelity: str) -> NDArray[np.float64]:
        """Means of the members (K x N) together with what stands beside them, which knows the target fidelity alone."""
        return mean if self.stacking is None or fidelity != TARGET_FIDELITY else self.stacking(mean, crystals)

    def _predict_chunk(self, crystals: Crystals, fidelity: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        mean, std = self.members.predict(crystals, fidelity)
        if std is None:
            std = np.repeat(np.array(self.noise)[:, None], len(crystals), axis=1)
        mean = self.stacked(mean, crystals, fidelity)
        factors = self.inflation_factors(crystals)
        centre = mean.mean(axis=0)
        return centre + factors * (mean - centre), factors * std


@dataclass(frozen=True, eq=False)
class FunctionPosterior:
    """Posterior of an ensemble of Gaussian processes: each draw is a function of one member, scaled for calibration."""

    ensemble: Ensemble
    featuriser: AnyFeaturiser
    keys: Sequence[str]
    functions: MemberFunctions
    fidelity: str = TARGET_FIDELITY

    @property
    def n_rows(self) -> int:
        """Rows in the pool."""
        return len(self.keys)

    @property
    def n_draws(self) -> int:
        """Number D of joint draws."""
        return self.functions.n_draws

    @property
    def notes(self) -> tuple[str, ...]:
        """Nothing to say of draws that are functions."""
        return ()

    def at(self, fidelity: str) -> PoolPosterior:
        """The same functions at another fidelity, as named for :meth:`Ensemble.predict`."""
        return replace(self, fidelity=fidelity)

    def mean_std(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Calibrated mean and standard deviation of these rows."""
        table = self.ensemble.predict(self.featuriser, self._select(rows), self.fidelity)
        return table.total(self.ensemble.calibration)

    def draws(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """``D x len(rows)``; the same functions whatever the rows."""
        out = np.empty((self.n_draws, len(rows)), dtype=np.float32)
        for start, part in zip(range(0, len(rows), CHUNK), chunks(self._select(rows)), strict=True):
            crystals = Crystals(self.featuriser, part)
            means, drawn = self.functions(crystals.embeddings, self.fidelity)
            stacked = self.ensemble.stacked(means, crystals, self.fidelity)
            centre = stacked.mean(axis=0)
            # each function keeps its distance to its member's mean, and that mean goes where the stacking has it
            drawn += np.repeat(stacked - means, len(drawn) // len(means), axis=0)
            factors = self.ensemble.calibration * self.ensemble.inflation_factors(crystals)
            out[:, start : start + len(part)] = centre + factors * (drawn - centre)
        return out

    def _select(self, rows: NDArray[np.int64]) -> list[str]:
        return [self.keys[i] for i in rows.tolist()]
