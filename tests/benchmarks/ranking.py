"""A batch chosen from a million candidates against sorting their means, and the memory it takes."""

from __future__ import annotations

import numpy as np

from tests.benchmarks.measure import Measure, best_seconds, peak_gigabytes, seconds

ROWS = 1_000_000
MEMBERS = 5
BATCH = 20
DRAWS = 512
LIMIT = 4.0
"""Gigabytes."""


def measure() -> list[Measure]:
    """Seconds, and the peak of the whole process with the prediction table in it."""
    from engine.acquire.batch import choose_batch
    from engine.acquire.posterior import MemberPosterior

    rng = np.random.default_rng(0)
    mean = rng.normal(0.8, 0.5, ROWS) + rng.normal(0, 0.1, (MEMBERS, ROWS))
    std = rng.uniform(0.05, 0.3, (MEMBERS, ROWS))
    posterior = MemberPosterior.from_members(mean, std, n_draws=DRAWS, rng=rng)
    candidates = np.arange(ROWS)
    reference = best_seconds(lambda: np.argsort(posterior.mean))
    best = float(posterior.mean.min())
    measures = []
    for name in ("ucb", "qLogEI"):

        def rank(name: str = name) -> None:
            rng = np.random.default_rng(0)
            choose_batch(posterior, goal="min", acquisition=name, q=BATCH, candidates=candidates, best=best, rng=rng)

        taken = seconds(rank)
        what = f"{name}, {BATCH} of {ROWS:,} rows, {MEMBERS} members"
        measures += [
            Measure(f"rank by {what}", taken, reference, "s", "", f"against np.argsort of the mean; {DRAWS} draws"),
            Measure(f"memory to rank by {what}", peak_gigabytes(), LIMIT, "GB", "<= 1", "against the limit"),
        ]
    return measures
