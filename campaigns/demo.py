"""The demo: a rehearsal on published values, then a queue of new candidates, all offline.

Every step starts from what is there: an interrupted demo continues, and a finished one prints its summary again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from campaigns.campaign import Campaign
from campaigns.configuration import FILE, read_configuration, with_settings
from campaigns.creation import warm_start
from campaigns.exceptions import CampaignError
from campaigns.exchange.export import export_queue
from campaigns.files import write_whole
from campaigns.intake.adding import add_materials
from campaigns.intake.ingest_report import IngestReport
from campaigns.intake.reading import open_sources
from campaigns.report import write_report
from db.records import LabelRecord
from db.states import QueueState, RoundState
from engine.materials.candidates import SUBSTITUTION
from engine.materials.crystal import Material
from engine.materials.sources.kinds import CANDIDATES, REFERENCE
from engine.metrics.discovery import DiscoveryPoint, discovery_curve, top_words

NAME = "kappascout-demo"
BATCH = 15
ROUNDS = 6
QUEUE = 20
_PROPERTY = "kappa_300K"
_FIDELITY = "dft"
_ANSWER = f"{_PROPERTY}_{_FIDELITY}"
_REHEARSED = {"kind": "replay", "source": "reference"}
_UNSEEN = "kappa-300K-rehearsal"
"""Shipped model of published values that was trained on none of the reference compounds."""
_LIKELY = -2.5
"""Least logarithm of the probability of the substitution that makes a candidate of a known compound: likelier ones are
mostly known crystals themselves."""
_PER_SYSTEM = 2
"""Most candidates of one chemical system in the queue, so that permutations of one compound do not fill it."""


@dataclass(frozen=True)
class DemoOutcome:
    """Results of the demo and the files it wrote."""

    pool: int
    curve: tuple[DiscoveryPoint, ...]
    candidates: int
    queue: tuple[dict[str, Any], ...]
    exported: Path
    report: Path

    def describe(self) -> str:
        """Summary that the demo prints at its end."""
        end = self.curve[-1]
        share = end.labels / self.pool
        lowest = top_words(self.pool, 5, "lowest")
        lines = [
            f"Rehearsal on {self.pool} crystals with published first-principles kappa at 300 K, the lowest wanted; the "
            "first batch",
            f"comes from {_UNSEEN}, which has learned other published values and none of these:",
            f"  labels  {lowest} found  by random choice  lowest kappa, W/(m K)",
        ]
        lines += [
            f"  {p.labels:6d}  {p.recall_top5:{len(lowest) + 6}.0%}  {p.labels / self.pool:16.0%}  {10**p.best:21.3g}"
            for p in self.curve
        ]
        lines += [
            f"With {share:.0%} of the labels the campaign has {end.recall_top5:.0%} of the {lowest}, "
            f"{end.enhancement_top5:.1f} times what random choice finds.",
            "",
            f"Then {self.candidates} candidates were generated. Of those that a likely substitution makes of a known "
            "compound,",
            f"the queue of {len(self.queue)} begins with:",
        ]
        lines += [f"  {row['rank']:2d}  {row['formula']:<10} {row['reason']}" for row in self.queue[:5]]
        return "\n".join([*lines, "", f"report: {self.report}", f"queue:  {self.exported}"])


def run_demo(directory: Path, say: Callable[[str], None]) -> DemoOutcome:
    """Replay a campaign on the reference table in ``directory``, then rank the generated candidates."""
    with _open_or_create(directory) as campaign:
        pool = _add_reference(campaign)
        curve = _rehearse(campaign, pool, say)
        _reveal(campaign, pool)
    _switch_to_dft(directory)
    with Campaign.open(directory) as campaign:
        say("adding generated candidates")
        report = campaign.ingest([CANDIDATES])
        if _queued_rounds(campaign) == ROUNDS:
            campaign.run(rounds=1, say=say)
        if campaign.queue_entries([QueueState.PROPOSED]):
            campaign.move([], QueueState.APPROVED, "demo")
        export_queue(campaign.workspace, directory / "queue", "cif", ROUNDS + 1)
        queue = campaign.queue().query("round == @ROUNDS + 1").to_dict("records")
        say("writing the report")
        page = write_report(campaign, directory / "report.html")
    candidates = report.added + report.unchanged
    return DemoOutcome(len(pool), tuple(curve), candidates, tuple(queue), directory / "queue", page)


def _open_or_create(directory: Path) -> Campaign:
    path = directory / FILE
    if not path.exists():
        budget = BATCH * ROUNDS + QUEUE
        settings: dict[str, Mapping[str, object]] = {"labeler": _REHEARSED, "model": warm_start(_PROPERTY, _UNSEEN)}
        return Campaign.create(directory, "min", _PROPERTY, name=NAME, settings=settings, batch=BATCH, budget=budget)
    if read_configuration(path).campaign.name != NAME:
        raise CampaignError(f"{directory} holds another campaign; give the demo an empty directory")
    return Campaign.open(directory)


def _add_reference(campaign: Campaign) -> dict[str, float]:
    """Add the crystals with a published first-principles value; returns the values by id."""
    found = [m for part in open_sources([REFERENCE]) for m in part if isinstance(m, Material)]
    labelled = [m for m in found if _ANSWER in m.properties]
    add_materials(campaign.store, labelled, IngestReport())
    return {m.id: float(m.properties[_ANSWER]) for m in labelled}


def _rehearse(campaign: Campaign, pool: dict[str, float], say: Callable[[str], None]) -> list[DiscoveryPoint]:
    """Start without a label and acquire by rounds; evaluated against all published values."""
    campaign.run(rounds=max(0, ROUNDS - _queued_rounds(campaign)), say=say)
    position = {id_: i for i, id_ in enumerate(pool)}
    chosen = [e.material_id for e in campaign.store.queue() if e.round is not None and e.round <= ROUNDS]
    values = np.log10(list(pool.values()))
    return discovery_curve(values, [position[id_] for id_ in chosen], goal="min", initial=BATCH, batch=BATCH)


def _queued_rounds(campaign: Campaign) -> int:
    return sum(record.state.step >= RoundState.QUEUED.step for record in campaign.store.rounds())


def _reveal(campaign: Campaign, pool: dict[str, float]) -> None:
    """Train the model that ranks the candidates on every published value."""
    known = {label.material_id for label in campaign.store.labels(_PROPERTY, _FIDELITY)}
    campaign.store.add_labels(_label(id_, value) for id_, value in pool.items() if id_ not in known)


def _switch_to_dft(directory: Path) -> None:
    """Switch the labeler to ``dft``: further labels come from calculations."""
    path = directory / FILE
    changed: dict[str, dict[str, object]] = {
        "labeler": {"kind": "dft", "source": None},
        "campaign": {"batch": QUEUE},
        "model": warm_start(_PROPERTY),
        "constraints": {
            "properties": {SUBSTITUTION: {"min": _LIKELY}},
            "missing": "drop",
            "max_per_chemical_system": _PER_SYSTEM,
        },
    }
    write_whole(path, with_settings(path.read_text(encoding="utf-8"), changed))


def _label(id_: str, value: float) -> LabelRecord:
    return LabelRecord(id_, _PROPERTY, value, "W/(m K)", _FIDELITY, method="published", source="reference table")
