"""A cheap model of the crystals' statistics keeps the promising share of a large pool for the full ensemble.

Embedding a crystal takes six times as long as its statistics. A Gaussian process on the statistics alone, fitted to the
round's labels, ranks the candidates by what they may be at best (mean and one standard deviation of the utility); its
predictions stand for the rest of the pool. What that loses is measured: candidates drawn at random get the full
prediction too, and the round keeps how many of their best were filtered out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from campaigns.files import replaced
from campaigns.output import Count
from campaigns.pool.pool import crystals_of
from engine.exceptions import TooFewLabelsError
from engine.execution import ExecutionSettings, executor
from engine.learning.ensemble.settings import minimum_labels
from engine.learning.features.featuriser import StatisticsStore, describe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from campaigns.round.steps import RoundWork

MANY = 50_000
"""Statistics of fewer crystals are made in this process."""
SAMPLE = 2_000
"""Candidates drawn at random to measure what is lost."""
BEST = 0.01
"""Share of them that counts as the best."""
_FEWEST = 20
"""Batches of candidates that are kept at least."""
_ROWS = 65_536


@dataclass(frozen=True, eq=False)
class FirstPass:
    """What a cheap model makes of a pool of N rows."""

    passed: NDArray[np.bool_]
    """N: candidates that are kept, and all rows that are labelled or awaited."""
    sample: NDArray[np.int64]
    """Candidates drawn at random, which get the full prediction too."""
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    """Of the cheap model, N each, in learned units."""

    @property
    def full(self) -> NDArray[np.bool_]:
        """Rows that get the full prediction, N."""
        full = self.passed.copy()
        full[self.sample] = True
        return full

    def loss(self, utility: NDArray[np.float64]) -> dict[str, Any]:
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


def first_pass(work: RoundWork) -> FirstPass | None:
    """Give the round's first pass, made once; None where it is off, pays nothing, or has too few labels."""
    share = work.settings.acquisition.prefilter
    candidates = work.candidates()
    kept = max(math.ceil(share * len(candidates)), _FEWEST * work.manifest["batch"])
    observed = work.pool.rows_of(work.labels)
    if not share or kept + SAMPLE >= len(candidates) or len(observed) < minimum_labels(work.settings.model.members):
        return None
    path = work.folder / "first_pass.npz"
    if not path.is_file():
        made = _made(work, candidates, observed, kept)
        if made is None:
            return None
        with replaced(path) as partial, partial.open("wb") as handle:
            np.savez(handle, passed=made.passed, sample=made.sample, mean=made.mean, std=made.std)
        work.say(f"first pass: {kept} of {len(candidates)} candidates are kept for the ensemble")
    with np.load(path) as stored:
        return FirstPass(**{name: stored[name] for name in ("passed", "sample", "mean", "std")})


def _made(work: RoundWork, candidates: NDArray[np.int64], observed: NDArray[np.int64], kept: int) -> FirstPass | None:
    from engine.learning.heads.gp import GaussianProcessHead

    statistics = StatisticsStore(work.campaign.features)
    for done in _describe_pool(work, statistics):
        work.say(Count(f"{done} of {len(work.pool)} crystals described"))
    values = work.scale.learned([work.labels[id_].value for id_ in work.pool.rows.take(observed).texts("material_id")])
    try:
        head = GaussianProcessHead.fit(statistics.read(work.hashes(observed)), values, statistics.groups, work.seed)
    except TooFewLabelsError:
        return None
    mean, std = np.empty((2, len(work.pool)), dtype=np.float32)
    for start in range(0, len(work.pool), _ROWS):
        rows = slice(start, start + _ROWS)
        mean[rows], std[rows] = head.predict(statistics.read(work.pool.rows[rows].texts("content_hash")))
    expected, spread = work.settings.campaign.sought.objective.moments(
        mean[candidates].astype(np.float64), std[candidates].astype(np.float64)
    )
    passed = np.zeros(len(work.pool), dtype=bool)
    passed[candidates[np.argsort(-(expected + spread), kind="stable")[:kept]]] = True
    passed[work.pool.rows_of(_always(work))] = True
    sample = np.sort(np.random.default_rng(work.seed).choice(candidates, SAMPLE, replace=False))
    return FirstPass(passed, sample, mean, std)


def _always(work: RoundWork) -> set[str]:
    """Materials with a label of the property, of whatever fidelity, and those whose label is awaited."""
    labelled = {label.material_id for label in work.store.labels(work.settings.campaign.property)}
    return labelled | set(work.labels) | set(work.manifest["pending"])


def _describe_pool(work: RoundWork, statistics: StatisticsStore) -> Iterator[int]:
    missing = np.flatnonzero(~statistics.holds(work.pool.hashes))
    done = len(work.pool) - len(missing)
    yield done
    here = ExecutionSettings(workers=1)
    execution = work.campaign.configuration.execution.settings() if len(missing) >= MANY else here
    with executor(execution) as run:
        for keys, described in run.map_unordered(describe, crystals_of(work.store, work.pool, missing)):
            statistics.keep(keys, described)
            done += len(keys)
            yield done
