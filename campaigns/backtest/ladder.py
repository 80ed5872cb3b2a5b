"""One strategy with one seed and a budget of core-hours, which labels of several fidelities are acquired from."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from campaigns.backtest.leaks import leaking_properties
from campaigns.backtest.levels import WANTED, LevelLabels
from campaigns.backtest.peers import PEERS
from campaigns.backtest.protocol import LabelledPool, Protocol, initial_ids
from campaigns.backtest.replay import BacktestRun, embeddings, timed, without_columns
from campaigns.backtest.strategies import BacktestStrategy, campaign_text, ladder_settings
from campaigns.exceptions import NoCandidatesError
from engine.metrics.discovery import discovery_curve

if TYPE_CHECKING:
    from campaigns.campaign import Campaign
    from campaigns.configuration import CampaignSection
    from campaigns.labelers.labelers import ByFidelity

FRACTIONS = (50, 80, 100)
"""Per cent of the best 5 %, of which the core-hours until they are found are reported."""
_ROUNDING = 1e-9
"""Relative error of a sum of core-hours."""


@dataclass
class LadderRun(BacktestRun):
    """Result of one strategy with one seed; ``acquired`` are materials labelled at the wanted fidelity.

    ``rounds`` are points at equal core-hours: those of the initial labels, and of one round of the wanted fidelity more
    at each point.
    """

    bought: list[tuple[str, str, float]] = field(default_factory=list)
    """Fidelity, material and core-hours of every label in the order of acquisition, the initial ones first."""
    hours_to: dict[str, float | None] = field(default_factory=dict)
    """Core-hours spent until 50, 80 and 100 % of the best 5 % have labels of the wanted fidelity; None if never."""
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    """The campaign's own evaluation of each of its rounds."""


def replay_ladder(
    job: tuple[BacktestStrategy, int], protocol: Protocol, pool: LabelledPool, features: Path
) -> LadderRun:
    """Run one strategy with one seed in this process; ``features`` is the folder of the pool's embeddings."""
    import torch

    torch.set_num_threads(1)
    strategy, seed = job
    run = LadderRun(strategy.name, seed, initial_ids(protocol, pool.ids, seed))
    rng = np.random.default_rng(seed)
    rng.choice(len(pool), protocol.initial, replace=False)  # a peer goes on where the initial draw ended
    spending = _Spending(protocol, pool, run)
    spending.buy((WANTED, id_) for id_ in run.acquired)
    if strategy.is_peer:
        _ask_peer(spending, features, rng)
    else:
        _run_campaign(spending, strategy, features)
    spending.judge()
    return run


class _Spending:
    """What a run has bought, and what is left of its budget."""

    def __init__(self, protocol: Protocol, pool: LabelledPool, run: LadderRun):
        assert pool.costs is not None
        self.protocol, self.pool, self.run = protocol, pool, run
        wanted = LevelLabels(WANTED, pool.values, pool.costs)
        self.levels = {level.name: level for level in (wanted, *pool.levels)}
        self.step = protocol.batch * wanted.mean_hours
        """Core-hours of a round of the wanted fidelity."""
        self.spent = 0.0

    @property
    def start(self) -> float:
        """Core-hours of the initial labels."""
        return float(sum(hours for _, _, hours in self.run.bought[: self.protocol.initial]))

    @property
    def budget(self) -> float:
        """Core-hours that may be spent in all, those of the initial labels included."""
        return self.start + self.protocol.rounds * self.step

    def buy(self, labels: Iterable[tuple[str, str]]) -> None:
        """Charge labels, pairs of fidelity and material id."""
        for fidelity, id_ in labels:
            hours = float(self.levels[fidelity].hours[self.pool.position[id_]])
            self.run.bought.append((fidelity, id_, hours))
            self.spent += hours

    def judge(self) -> None:
        """Write what had been found when each point's core-hours were spent."""
        run, pool, protocol = self.run, self.pool, self.protocol
        total, spent = float(self.levels[WANTED].hours.sum()), np.cumsum([hours for _, _, hours in run.bought])
        within = int(np.searchsorted(spent, self.budget * (1 + _ROUNDING), side="right"))
        run.bought, spent = run.bought[:within], spent[:within]
        is_wanted = np.array([fidelity == WANTED for fidelity, _, _ in run.bought])
        run.acquired = [id_ for fidelity, id_, _ in run.bought if fidelity == WANTED]
        rows = [pool.position[id_] for id_ in run.acquired]
        found = discovery_curve(pool.learned, rows, goal=protocol.goal, initial=protocol.initial, batch=1)
        for k in range(protocol.rounds + 1):
            limit = self.start + k * self.step
            until = int(np.searchsorted(spent, limit * (1 + _ROUNDING), side="right"))
            point = replace(found[int(is_wanted[:until].sum()) - protocol.initial], round=k)
            share = limit / total
            run.rounds.append(
                asdict(point)
                | {
                    "pool_share": point.labels / len(pool),
                    "cost": limit,
                    "spent": float(spent[until - 1]),
                    "cost_share": share,
                    "cost_enhancement_top1": point.recall_top1 / share,
                    "cost_enhancement_top5": point.recall_top5 / share,
                    "labels_by_level": {
                        name: sum(fidelity == name for fidelity, _, _ in run.bought[:until]) for name in self.levels
                    },
                    "judgement": {},
                }
            )
        for percent in FRACTIONS:
            first = next((k for k, p in enumerate(found) if p.recall_top5 >= percent / 100 - 1e-12), None)
            when = None if first is None else np.flatnonzero(is_wanted)[protocol.initial + first - 1]
            run.hours_to[str(percent)] = None if when is None else float(spent[when])
        run.cost_acceleration_50, run.cost_acceleration_80 = (
            None if (hours := run.hours_to[str(percent)]) is None else percent / 100 * total / hours
            for percent in (50, 80)
        )


def _ask_peer(spending: _Spending, folder: Path, rng: np.random.Generator) -> None:
    """Acquire labels of the wanted fidelity by another method until the budget is spent."""
    protocol, pool, run = spending.protocol, spending.pool, spending.run
    target = pool.learned * (1 if protocol.goal == "min" else -1)
    acquired = [pool.position[id_] for id_ in run.acquired]
    peer = PEERS[run.strategy](embeddings(protocol, pool, folder), run.seed, rng)
    while spending.spent < spending.budget * (1 - _ROUNDING) and len(acquired) < len(pool):
        with timed(run):
            chosen = peer.propose(acquired, target[acquired], min(protocol.batch, len(pool) - len(acquired)))
        acquired = [*acquired, *chosen]
        spending.buy((WANTED, pool.ids[row]) for row in chosen)


def _run_campaign(spending: _Spending, strategy: BacktestStrategy, features: Path) -> None:
    """Run rounds of the production code until the budget does not cover a label of the wanted fidelity."""
    from campaigns.budget import core_hours_left
    from campaigns.campaign import Campaign
    from campaigns.configuration import parse_configuration
    from campaigns.intake.adding import add_materials
    from campaigns.intake.ingest_report import IngestReport
    from campaigns.status import round_row

    protocol, pool, run = spending.protocol, spending.pool, spending.run
    initial = list(run.acquired)
    given = [pool.ids[row] for row in spending.levels[strategy.given].known] if strategy.given else []
    spending.buy((strategy.given, id_) for id_ in given)
    left, wanted = spending.budget - spending.spent, spending.levels[WANTED].mean_hours
    if left < wanted * (1 - _ROUNDING):
        return
    left *= 1 + _ROUNDING / 2  # the sum of what is spent may round up
    more = ladder_settings(protocol, strategy, {level.name: level.mean_hours for level in spending.levels.values()})
    more["campaign"] |= {"budget": len(pool), "budget_core_hours": left}
    text = campaign_text(protocol, strategy, run.seed, protocol.batch, more)
    hidden = {name for level in protocol.levels for name in (level.field, level.cost)} | {protocol.label_cost}
    columns = leaking_properties(pool, protocol.property) | {name for name in hidden if isinstance(name, str)}
    with tempfile.TemporaryDirectory(prefix="kappascout-backtest-") as name:
        labeler = _labeler(parse_configuration(text, run.strategy).campaign, spending)
        with Campaign.create_from(Path(name) / "campaign", text, labeler, features) as campaign:
            add_materials(campaign.store, without_columns(pool, columns).materials, IngestReport())
            _label(campaign, spending, [*((WANTED, id_) for id_ in initial), *((strategy.given, id_) for id_ in given)])
            while (core_hours_left(campaign.workspace) or 0.0) >= wanted:
                labels = _round(campaign, run)
                if labels is None:
                    break
                spending.buy(labels)
            run.evaluations = [round_row(record) for record in campaign.store.rounds()]


def _round(campaign: Campaign, run: LadderRun) -> list[tuple[str, str]] | None:
    """Run a round of the production code; fidelity and material of its labels by rank, None without candidates."""
    from db.states import QueueState

    with timed(run):
        try:
            report = campaign.run(rounds=1)
        except NoCandidatesError:
            return None
    if not report.rounds:
        return None
    entries = campaign.store.queue(round=report.rounds[-1])
    return [(e.fidelity, e.material_id) for e in entries if e.state is QueueState.DONE]


def _labeler(section: CampaignSection, spending: _Spending) -> ByFidelity:
    """Answers of all fidelities; a material without a value of one fails there, at no cost."""
    from campaigns.labelers.labelers import ByFidelity, Replay

    ids = spending.pool.ids
    return ByFidelity(
        {
            name: Replay(
                section,
                {ids[row]: float(level.values[row]) for row in level.known},
                "backtest",
                {ids[row]: float(level.hours[row]) for row in level.known},
            )
            for name, level in spending.levels.items()
        }
    )


def _label(campaign: Campaign, spending: _Spending, labels: Sequence[tuple[str, str]]) -> None:
    from db.records import LabelRecord

    section, position = campaign.configuration.campaign, spending.pool.position
    campaign.store.add_labels(
        LabelRecord(
            id_,
            section.property,
            float(spending.levels[fidelity].values[position[id_]]),
            section.unit,
            fidelity,
            source="initial",
            cost=float(spending.levels[fidelity].hours[position[id_]]),
        )
        for fidelity, id_ in labels
    )
