"""A cheap model of the crystals' statistics keeps the promising share of a large pool for the full ensemble.

Embedding a crystal takes six times as long as its statistics. A Gaussian process on the statistics alone, fitted to the
round's labels, ranks the candidates by an upper bound (mean plus one standard deviation of the utility); its
predictions are used for the rest of the pool. The loss is measured: candidates drawn at random get the full
prediction too, and the round records how many of their best were filtered out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from campaigns.files import replaced
from campaigns.output import Count
from campaigns.pool.columns import BLOCK_ROWS
from campaigns.pool.pool import crystals_of
from engine.exceptions import TooFewLabelsError
from engine.execution import ExecutionSettings, executor
from engine.learning.ensemble.settings import minimum_labels
from engine.learning.features.featuriser import StatisticsStore, describe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from campaigns.round.context import RoundContext
    from db.records import Json

ROWS_FOR_PROCESSES = 50_000
"""Statistics of fewer crystals are computed in this process."""
SAMPLE = 2_000
"""Number of candidates drawn at random to measure the loss."""
BEST = 0.01
"""Share of them that counts as the best."""
_FEWEST = 20
"""Batches of candidates that are kept at least."""


@dataclass(frozen=True, eq=False)
class FirstPass:
    """Prefilter of a pool of N rows."""

    passed: NDArray[np.bool_]
    """Mask (N) of candidates that are kept, and of all rows that are labelled or pending."""
    sample: NDArray[np.int64]
    """Candidates drawn at random, which get the full prediction too."""
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    """Mean and standard deviation of the cheap model, N each, in learned units."""

    @property
    def full(self) -> NDArray[np.bool_]:
        """Mask (N) of rows that get the full prediction."""
        full = self.passed.copy()
        full[self.sample] = True
        return full

    def loss(self, utility: NDArray[np.float64]) -> Json:
        """Count the sample's best (by the full model's ``utility`` of each sampled row) that were filtered out."""
        best = max(1, math.ceil(BEST * len(self.sample)))
        chosen = self.sample[np.argsort(-utility, kind="stable")[:best]]
        return {
            "kept": int(self.passed.sum()),
            "of": len(self.passed),
            "sampled": len(self.sample),
            "best": best,
            "lost": int((~self.passed[chosen]).sum()),
        }


def first_pass(context: RoundContext) -> FirstPass | None:
    """The round's prefilter, made once; None where it is off, saves nothing, or has too few labels."""
    share = context.settings.acquisition.prefilter
    if not share:
        return None
    candidates = context.candidates
    kept = max(math.ceil(share * len(candidates)), _FEWEST * context.manifest.batch)
    observed = context.pool.rows_of(context.labels)
    if kept + SAMPLE >= len(candidates) or len(observed) < minimum_labels(context.settings.model.members):
        return None
    path = context.folder / "first_pass.npz"
    if not path.is_file():
        made = _made(context, candidates, observed, kept)
        if made is None:
            return None
        with replaced(path) as partial, partial.open("wb") as handle:
            np.savez(handle, passed=made.passed, sample=made.sample, mean=made.mean, std=made.std)
        context.say(f"prefilter: {kept} of {len(candidates)} candidates are kept for the ensemble")
    with np.load(path) as stored:
        return FirstPass(**{name: stored[name] for name in ("passed", "sample", "mean", "std")})


def promising(context: RoundContext) -> NDArray[np.int64]:
    """Candidates that the prefilter has kept; all of them where there is none."""
    passed = first_pass(context)
    return context.candidates if passed is None else context.candidates[passed.passed[context.candidates]]


def _made(
    context: RoundContext, candidates: NDArray[np.int64], observed: NDArray[np.int64], kept: int
) -> FirstPass | None:
    from engine.learning.heads.gp import GaussianProcessHead

    statistics = StatisticsStore(context.workspace.features)
    for done in _describe_pool(context, statistics):
        context.say(Count(f"{done} of {len(context.pool)} crystals described"))
    values = context.scale.learned(
        [context.labels[id_].value for id_ in context.pool.rows.take(observed).texts("material_id")]
    )
    try:
        head = GaussianProcessHead.fit(
            statistics.read(context.hashes(observed)), values, statistics.groups, context.seed
        )
    except TooFewLabelsError:
        return None
    mean, std = np.empty((2, len(context.pool)), dtype=np.float32)
    for start in range(0, len(context.pool), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        mean[rows], std[rows] = head.predict(statistics.read(context.pool.rows[rows].texts("content_hash")))
    expected, spread = context.settings.campaign.sought.objective.moments(
        mean[candidates].astype(np.float64), std[candidates].astype(np.float64)
    )
    passed = np.zeros(len(context.pool), dtype=bool)
    passed[candidates[np.argsort(-(expected + spread), kind="stable")[:kept]]] = True
    passed[context.pool.rows_of(_always(context))] = True
    sample = np.sort(np.random.default_rng(context.seed).choice(candidates, SAMPLE, replace=False))
    return FirstPass(passed, sample, mean, std)


def _always(context: RoundContext) -> set[str]:
    """Materials with a label of the property, of any fidelity, and those with a pending label."""
    labelled = {label.material_id for label in context.store.labels(context.settings.campaign.property)}
    return labelled | set(context.labels) | set(context.manifest.pending)


def _describe_pool(context: RoundContext, statistics: StatisticsStore) -> Iterator[int]:
    missing = np.flatnonzero(~statistics.holds(context.pool.hashes))
    done = len(context.pool) - len(missing)
    yield done
    here = ExecutionSettings(workers=1)
    execution = context.workspace.configuration.execution.settings() if len(missing) >= ROWS_FOR_PROCESSES else here
    with executor(execution) as run:
        for keys, described in run.map_unordered(describe, crystals_of(context.store, context.pool, missing)):
            statistics.keep(keys, described)
            done += len(keys)
            yield done
