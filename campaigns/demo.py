"""The embedded default: a rehearsed campaign on published values, then a queue of new candidates, all offline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from campaigns.campaign import Campaign
from campaigns.configuration import FILE
from campaigns.exceptions import CampaignError
from campaigns.export import export_queue
from campaigns.files import write_whole
from campaigns.ingestion import CANDIDATES, REFERENCE
from campaigns.labelers import Replay
from campaigns.report import write_report
from db.records import LabelRecord
from db.states import QueueState
from engine.metrics.discovery import DiscoveryPoint, discovery_curve

INITIAL = 20
BATCH = 15
ROUNDS = 6
QUEUE = 20
SEED = 0
_PROPERTY = "kappa_300K"
_FIDELITY = "dft"


@dataclass(frozen=True)
class DemoOutcome:
    """What the demo found and where it put things."""

    directory: Path
    pool: int
    curve: tuple[DiscoveryPoint, ...]
    candidates: int
    queue: tuple[dict[str, Any], ...]
    exported: Path
    report: Path

    def describe(self) -> str:
        """The demo's closing words."""
        end = self.curve[-1]
        share = end.labels / self.pool
        lines = [
            f"Rehearsal on {self.pool} crystals with published first-principles kappa (300 K), lowest wanted:",
            "  labels  lowest 5 % found  by random  best kappa, W/(m K)",
        ]
        lines += [
            f"  {p.labels:6d}  {p.recall_top5:15.0%}  {p.labels / self.pool:8.0%}  {10**p.best:10.3g}" for p in self.curve
        ]
        lines += [
            f"With {share:.0%} of the labels the campaign has {end.recall_top5:.0%} of the lowest 5 %, "
            f"{end.recall_top5 / share:.1f} times what random choice finds.",
            "",
            f"Then {self.candidates} generated candidates were ranked; the first of the queue of {len(self.queue)}:",
        ]
        lines += [f"  {row['rank']:2d}  {row['formula']:<12} {row['reason']}" for row in self.queue[:5]]
        return "\n".join([*lines, "", f"report: {self.report}", f"queue:  {self.exported}"])


def run_demo(directory: Path, say: Callable[[str], None]) -> DemoOutcome:
    """Make a campaign in ``directory``, replay it on the reference table, then rank the generated candidates."""
    if (directory / FILE).exists():
        raise CampaignError(f"{directory} holds a campaign already; give the demo an empty directory")
    replay = {"labeler": "replay", "replay": 'source = "reference"\n', "batch": BATCH, "budget": BATCH * ROUNDS + QUEUE}
    with Campaign.create(directory, "min", _PROPERTY, **replay) as campaign:
        campaign.ingest([REFERENCE])
        curve, pool = _rehearse(campaign, say)
        _reveal_rest(campaign)
    _switch_to_dft(directory)
    with Campaign.open(directory) as campaign:
        say("ranking generated candidates")
        added = campaign.ingest([CANDIDATES]).added
        campaign.run(rounds=1, say=say)
        number = campaign.store.rounds()[-1].number
        campaign.move([], QueueState.APPROVED, "demo")
        exported = directory / "queue"
        export_queue(campaign, exported, "cif", number)
        queue = campaign.queue().query("round == @number").to_dict("records")
        report = write_report(campaign, directory / "report.html")
    return DemoOutcome(directory, pool, tuple(curve), added, tuple(queue), exported, report)


def _rehearse(campaign: Campaign, say: Callable[[str], None]) -> tuple[list[DiscoveryPoint], int]:
    """Start from a few random labels, then let the rounds choose; judged against all published values."""
    answers = campaign.labeler.answers if isinstance(campaign.labeler, Replay) else {}
    ids = [key.material_id for key in campaign.store.material_index() if key.material_id in answers]
    start = [ids[i] for i in np.random.default_rng(SEED).choice(len(ids), INITIAL, replace=False)]
    campaign.store.add_labels(_label(id_, answers[id_]) for id_ in start)
    withheld = {key.material_id for key in campaign.store.material_index()} - set(ids)
    del withheld  # crystals with a measured value only stay in the pool; asked for, they fail for want of an answer
    campaign.run(rounds=ROUNDS, say=say)
    position = {id_: i for i, id_ in enumerate(ids)}
    bought = [*start, *(e.material_id for e in campaign.store.queue() if e.state is QueueState.DONE)]
    values = np.log10([answers[id_] for id_ in ids])
    curve = discovery_curve(values, [position[id_] for id_ in bought], goal="min", initial=INITIAL, batch=BATCH)
    return curve, len(ids)


def _reveal_rest(campaign: Campaign) -> None:
    """Let the model that ranks the candidates learn from every published value."""
    answers = campaign.labeler.answers if isinstance(campaign.labeler, Replay) else {}
    known = set(campaign.store.labels(_PROPERTY, _FIDELITY))
    campaign.store.add_labels(_label(id_, value) for id_, value in answers.items() if id_ not in known)


def _switch_to_dft(directory: Path) -> None:
    path = directory / FILE
    text = path.read_text().replace('kind = "replay"', 'kind = "dft"').replace('source = "reference"\n', "")
    write_whole(path, text.replace(f"batch = {BATCH} ", f"batch = {QUEUE} "))


def _label(id_: str, value: float) -> LabelRecord:
    return LabelRecord(id_, _PROPERTY, value, "W/(m K)", _FIDELITY, method="published", source="reference")
