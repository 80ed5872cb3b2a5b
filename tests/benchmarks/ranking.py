"""Batches chosen from a million candidates against sorting their means, and the memory it takes; and whole rounds."""

from __future__ import annotations

import tempfile
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tests.benchmarks.crystals import KAPPA, large_pool_files
from tests.benchmarks.measure import Measure, best_seconds, peak_gigabytes, processor_seconds

if TYPE_CHECKING:
    from campaigns.campaign import Campaign

ROWS = 1_000_000
MEMBERS = 5
BATCH = 100
DRAWS = 512
LIMIT = 4.0
"""Gigabytes."""
FUNCTIONS = ("ucb", "qLogEI", "qUCB", "thompson")
ROUND_LABELS = 500
ROUND_BATCH = 50
ROUND_LIMIT = 60.0
"""Processor seconds of a round on some ten thousand crystals, after their embedding."""


def measure() -> list[Measure]:
    """Seconds, and the peak of the whole process with the prediction table in it."""
    from engine.acquire.batch import choose_batch
    from engine.acquire.objectives import Objective
    from engine.acquire.pool import Criterion
    from engine.acquire.request import BatchRequest
    from engine.posteriors.posterior import MemberPosterior

    rng = np.random.default_rng(0)
    mean = rng.normal(0.8, 0.5, ROWS) + rng.normal(0, 0.1, (MEMBERS, ROWS))
    std = rng.uniform(0.05, 0.3, (MEMBERS, ROWS))
    posterior = MemberPosterior.from_members(mean, std, n_draws=DRAWS, rng=rng)
    del mean, std
    criterion = Criterion(posterior, Objective.of("min"))
    candidates = np.arange(ROWS)
    reference = best_seconds(lambda: np.argsort(posterior.mean))
    best = float(posterior.mean.min())
    family = rng.integers(0, 5000, ROWS)
    choices = {name: {"acquisition": name} for name in FUNCTIONS}
    choices |= {
        "ucb with 3 a family": {"acquisition": "ucb", "limits": {"family": (family, 3)}},
        "ucb per core-hour": {"acquisition": "ucb", "cost": rng.uniform(1, 1000, ROWS)},
        "ucb with pending rows": {"acquisition": "ucb", "pending": np.argsort(posterior.mean)[:50]},
    }
    measures = []
    for name, options in choices.items():

        def rank(options: dict = options) -> None:
            request = BatchRequest(
                q=BATCH,
                scale="log10",
                candidates=candidates,
                best=best,
                rng=np.random.default_rng(0),
                **options,
            )
            choose_batch((criterion,), request)

        repeats = 3 if name == "ucb" else 1
        if name == "qLogEI":
            import engine.acquire.montecarlo  # noqa: F401  # BoTorch takes seconds to import, once
        taken = best_seconds(rank, repeats)
        what = f"{name}, {BATCH} of {ROWS:,} rows, {MEMBERS} members"
        goal = "<= 10" if name == "ucb" else ""
        measures += [
            Measure(f"rank by {what}", taken, reference, "s", goal, f"against np.argsort of the mean; {DRAWS} draws"),
            Measure(f"memory to rank by {what}", peak_gigabytes(), LIMIT, "GB", "<= 1", "against the limit"),
        ]
    return measures + _joint_improvement(posterior.n_draws) + _whole_rounds()


def _joint_improvement(n_draws: int) -> list[Measure]:
    """Rank by the joint posterior of a Gaussian process against the plain mean - sd, both with its fit."""
    from engine.acquire.batch import choose_batch
    from engine.acquire.objectives import Objective
    from engine.acquire.pool import Criterion
    from engine.acquire.request import BatchRequest
    from engine.learning.heads.gp import GaussianProcessHead, PosteriorFunctions

    rng = np.random.default_rng(0)
    x = rng.normal(size=(4400, 300)).astype(np.float32)
    y = x[:, :8].sum(axis=1) / 8 + 0.1 * rng.normal(size=4400)
    groups = {
        "composition": slice(0, 20),
        "bonding": slice(20, 28),
        "readout": slice(28, 172),
        "trunk": slice(172, 300),
    }

    def fit() -> GaussianProcessHead:
        return GaussianProcessHead.fit(x[:300], y[:300], groups, 0)

    class Process:
        """One head over the pool; its functions are made when they are needed."""

        n_rows = len(x)
        notes = ()

        def __init__(self) -> None:
            self.head, self.n_draws = fit(), n_draws

        @cached_property
        def functions(self) -> PosteriorFunctions:
            return self.head.functions(n_draws, 0)

        def mean_std(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return self.head.predict(x[rows])

        def draws(self, rows: np.ndarray) -> np.ndarray:
            return self.functions(x[rows])[1].astype(np.float32)

    def rank(acquisition: str) -> float:
        return best_seconds(
            lambda: choose_batch(
                (Criterion(Process(), Objective.of("min")),),
                BatchRequest(
                    acquisition=acquisition, q=50, candidates=np.arange(300, len(x)), best=float(y[:300].min()),
                    scale="log10", rng=np.random.default_rng(0),
                ),
            )
        )  # fmt: skip

    plain = best_seconds(lambda: np.argsort(np.subtract(*fit().predict(x))))
    note = "fit on 300 included, against fit, prediction of all, and sorting by mean - sd"
    return [
        Measure(f"{name} on a Gaussian process, 50 of 4,400", rank(name), plain, "s", "", note)
        for name in ("ucb", "qLogEI")
    ]


def _whole_rounds() -> list[Measure]:
    """Processor seconds of a campaign's rounds on embedded crystals, and of a plain Gaussian process and mean - sd."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        taken = {function: _round_seconds(Path(name), function) for function in ("ucb", "qLogEI")}
        plain, n = _plain_seconds(Path(name))
    what = f"{ROUND_BATCH} of {n:,} crystals, {ROUND_LABELS} labels"
    return [
        measure
        for function, seconds in taken.items()
        for measure in (
            Measure(f"round with {function}, {what}", seconds, ROUND_LIMIT, "CPU-s", "<= 1", "against the limit"),
            Measure(f"round with {function}, {what}", seconds, plain, "CPU-s", "", "against one plain GP, mean - sd"),
        )
    ]


def _round_seconds(folder: Path, function: str) -> float:
    """Train, score, rank and queue; the pool's embeddings are there."""
    from campaigns.campaign import Campaign
    from campaigns.round.context import RoundContext
    from campaigns.round.opening import open_round
    from campaigns.round.steps import run_steps
    from db.states import RoundState

    directory = folder / function
    Campaign.create(directory, warm=False, fidelity="agl", batch=ROUND_BATCH, budget=1000).close()
    text = (directory / "campaign.toml").read_text()
    (directory / "campaign.toml").write_text(text.replace('function = "ucb"', f'function = "{function}"'))
    with Campaign.open(directory, features=folder / "features") as campaign:
        campaign.ingest([str(path) for path in large_pool_files(folder)])
        _label(campaign)
        record = open_round(campaign.workspace, ROUND_BATCH)
        context = run_steps(RoundContext.of(campaign.workspace, record, lambda text: None), RoundState.EMBEDDED)
        return processor_seconds(lambda: run_steps(context, embedded=True))


def _plain_seconds(folder: Path) -> tuple[float, int]:
    """Fit one Gaussian process to the same labels and embeddings, and sort by mean - sd; the size of the pool."""
    from campaigns.backtest.peers import GaussianProcess
    from campaigns.campaign import Campaign
    from campaigns.pool.labels import training_labels
    from campaigns.pool.pool import Pool
    from engine.learning.features.featuriser import Featuriser

    with Campaign.open(folder / "ucb") as campaign:
        backbone = campaign.backbone(campaign.configuration.model.backbone)
        pool = Pool.of(campaign.store, backbone.elements)
        labels = training_labels(campaign.store, campaign.configuration)
        embeddings = Featuriser(backbone, folder / "features").embeddings(pool.hashes).astype(np.float64)
    rows = [row for row, id_ in enumerate(pool.ids) if id_ in labels]
    target = np.log10([labels[pool.ids[row]].value for row in rows])
    peer = GaussianProcess(embeddings)
    return processor_seconds(lambda: peer.propose(rows, target, ROUND_BATCH)), len(pool)


def _label(campaign: Campaign) -> None:
    from db.records import LabelRecord

    known = campaign.store.property_values([KAPPA])[KAPPA]
    ids = np.random.default_rng(0).permutation(sorted(known))[:ROUND_LABELS].tolist()
    campaign.store.add_labels(
        LabelRecord(id_, "kappa_300K", float(known[id_]), "W/(m K)", "agl", source="benchmark") for id_ in ids
    )
