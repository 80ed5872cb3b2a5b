"""One strategy with one seed: a real campaign in a separate folder, or a peer; and what it found."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from campaigns.backtest.leaks import leaking_properties
from campaigns.backtest.peers import PEERS
from campaigns.backtest.protocol import LabelledPool, Protocol, initial_ids
from campaigns.backtest.strategies import BacktestStrategy, campaign_text
from campaigns.exceptions import CampaignError
from engine.metrics.discovery import DiscoveryPoint, acceleration, discovery_curve

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from campaigns.campaign import Campaign


@dataclass
class BacktestRun:
    """Result of one strategy with one seed."""

    strategy: str
    seed: int
    acquired: list[str]
    """Ids in the order of acquisition; the initial ones first."""
    round_seconds: list[float] = field(default_factory=list)
    """Wall-clock time."""
    cpu_seconds: list[float] = field(default_factory=list)
    """Processor time, which does not depend on other work on the machine."""
    rounds: list[dict[str, Any]] = field(default_factory=list)
    """Discovery after the initial labels (round 0) and after every round, with the round's own evaluation."""
    acceleration_50: float | None = None
    acceleration_80: float | None = None
    cost_acceleration_50: float | None = None
    cost_acceleration_80: float | None = None
    """The same by cost: what random choice is expected to spend for this recall over what was spent."""
    seen: bool = False
    """Whether the starting model was trained on answers, so that the run is no fair comparison."""


def replay(job: tuple[BacktestStrategy, int], protocol: Protocol, pool: LabelledPool, features: Path) -> BacktestRun:
    """Run one strategy with one seed in this process; ``features`` is the folder of the pool's embeddings."""
    import torch

    torch.set_num_threads(1)
    strategy, seed = job
    run = BacktestRun(strategy.name, seed, initial_ids(protocol, pool.initial_side, seed))
    rng = np.random.default_rng(seed)
    rng.choice(len(pool.initial_side), protocol.initial, replace=False)  # a peer goes on where the initial draw ended
    own = pool.of_run(run.acquired)
    if strategy.is_peer:
        judgements = _ask_peer(protocol, own, run, features, rng)
    else:
        hidden = without_columns(own, leaking_properties(pool, protocol.property))
        judgements = _run_campaign(protocol, hidden, strategy, run, features)
    _judge(protocol, own, run, judgements)
    return run


def _run_campaign(
    protocol: Protocol, pool: LabelledPool, strategy: BacktestStrategy, run: BacktestRun, features: Path
) -> list[dict[str, Any]]:
    from campaigns.campaign import Campaign
    from campaigns.configuration import parse_configuration
    from campaigns.intake.adding import add_materials
    from campaigns.intake.ingest_report import IngestReport
    from campaigns.labelers.labelers import Replay
    from campaigns.status import round_row

    cold = protocol.cold_start
    text = campaign_text(protocol, strategy, run.seed, protocol.initial if cold else protocol.batch)
    with tempfile.TemporaryDirectory(prefix="kappascout-backtest-") as name:
        directory = Path(name) / "campaign"
        section = parse_configuration(text, run.strategy).campaign
        labeler = Replay(section, dict(zip(pool.ids, pool.values.tolist(), strict=True)), "backtest")
        with Campaign.create_from(directory, text, labeler, features) as campaign:
            add_materials(campaign.store, pool.materials, IngestReport())
            if cold:
                run.acquired = _rounds(campaign, 1, run)
                run.round_seconds, run.cpu_seconds = [], []
            else:
                _label(campaign, pool, run.acquired)
        if cold:
            (directory / "campaign.toml").write_text(campaign_text(protocol, strategy, run.seed, protocol.batch))
        with Campaign.open(directory, labeler, features) as campaign:
            run.acquired += _rounds(campaign, protocol.rounds, run)
            rows = [round_row(record) for record in campaign.store.rounds()]
    return rows[1:] if cold else rows


def _rounds(campaign: Campaign, rounds: int, run: BacktestRun) -> list[str]:
    """Run rounds of the production code, answered from the pool; ids in the order of the queue."""
    queued = []
    for _ in range(rounds):
        with timed(run):
            report = campaign.run(rounds=1)
        if not report.rounds:
            raise CampaignError(f"{run.strategy} seed {run.seed}: the campaign stopped early: {report.message}")
        queued += [e.material_id for e in campaign.store.queue(round=report.rounds[-1])]
    return queued


@contextmanager
def timed(run: BacktestRun) -> Iterator[None]:
    """Add the time of a round to those of the run."""
    wall, processor = time.perf_counter(), time.process_time()
    yield
    run.round_seconds.append(round(time.perf_counter() - wall, 3))
    run.cpu_seconds.append(round(time.process_time() - processor, 3))


def _label(campaign: Campaign, pool: LabelledPool, ids: list[str]) -> None:
    from db.records import LabelRecord

    section = campaign.configuration.campaign
    values = [float(pool.values[pool.position[id_]]) for id_ in ids]
    campaign.store.add_labels(
        LabelRecord(id_, section.property, value, section.unit, section.fidelity, source="initial")
        for id_, value in zip(ids, values, strict=True)
    )


def without_columns(pool: LabelledPool, names: set[str]) -> LabelledPool:
    """The pool with materials that do not carry the answers along."""
    kept = [{k: v for k, v in m.properties.items() if k not in names} for m in pool.materials]
    return replace(pool, materials=[replace(m, properties=p) for m, p in zip(pool.materials, kept, strict=True)])


def _ask_peer(
    protocol: Protocol, pool: LabelledPool, run: BacktestRun, folder: Path, rng: np.random.Generator
) -> list[dict[str, Any]]:
    target = pool.learned * (1 if protocol.goal == "min" else -1)
    acquired = [pool.position[id_] for id_ in run.acquired]
    peer = PEERS[run.strategy](embeddings(protocol, pool, folder), run.seed, rng)
    for _ in range(protocol.rounds):
        with timed(run):
            chosen = peer.propose(acquired, target[acquired], protocol.batch)
        acquired = [*acquired, *chosen]
    run.acquired = [pool.ids[row] for row in acquired]
    return [{} for _ in range(protocol.rounds)]


def embeddings(protocol: Protocol, pool: LabelledPool, folder: Path) -> NDArray[np.float64]:
    """Embeddings, N x d, of all column groups."""
    from engine.learning.backbones.stack import make_featuriser
    from engine.learning.ensemble.storage import load_starts

    featuriser = make_featuriser(load_starts(protocol.start), folder)
    return featuriser.embeddings([m.content_hash for m in pool.materials]).astype(np.float64)


def _judge(protocol: Protocol, pool: LabelledPool, run: BacktestRun, judgements: list[dict[str, Any]]) -> None:
    acquired = [pool.position[id_] for id_ in run.acquired]
    candidates, given = (None, 0) if pool.split is None else (pool.split.test, protocol.initial)
    points: list[DiscoveryPoint] = discovery_curve(
        pool.learned,
        acquired,
        goal=protocol.goal,
        initial=protocol.initial,
        batch=protocol.batch,
        candidates=candidates,
    )
    run.acceleration_50 = acceleration(points, pool.n_candidates, 0.5, given)
    run.acceleration_80 = acceleration(points, pool.n_candidates, 0.8, given)
    later: Iterator[dict[str, Any]] = iter([{}, *judgements])
    run.rounds = [
        asdict(point) | _shares(point, pool, acquired[given : point.labels]) | {"judgement": next(later)}
        for point in points
    ]
    if pool.costs is not None:
        run.cost_acceleration_50, run.cost_acceleration_80 = (_cost_acceleration(run, f) for f in (0.5, 0.8))


def _shares(point: DiscoveryPoint, pool: LabelledPool, acquired: list[int]) -> dict[str, float]:
    """Share of the candidates that was acquired; where costs are known also what was spent, and recall over its share.

    With a split ``acquired`` are candidates alone: initial labels are given, and cost nothing.
    """
    acquired_share = {"pool_share": len(acquired) / pool.n_candidates}
    if pool.costs is None:
        return acquired_share
    spent = float(pool.costs[acquired].sum())
    share = spent / float((pool.costs if pool.split is None else pool.costs[pool.split.test]).sum())
    return acquired_share | {
        "cost": spent,
        "cost_share": share,
        "cost_enhancement_top1": point.recall_top1 / share if share else 1.0,
        "cost_enhancement_top5": point.recall_top5 / share if share else 1.0,
    }


def _cost_acceleration(run: BacktestRun, fraction: float) -> float | None:
    """Share of the pool's cost that random choice needs for this fraction of the best 5 %, over that spent."""
    for point in run.rounds:
        if point["recall_top5"] >= fraction - 1e-12:
            return fraction / float(point["cost_share"])
    return None
