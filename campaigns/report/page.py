"""The report as a page: figures, tables and a few sentences in one HTML file that opens offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from campaigns.exceptions import CampaignError
from campaigns.files import write_whole
from campaigns.report.evidence import EXTREME, Evidence
from campaigns.report.html import drawn, render
from campaigns.report.numbers import count, hours, in_unit, percent, significant, unbroken
from campaigns.report.tables import (
    data_facts,
    model_table,
    queue_tables,
    round_table,
    stopping_table,
    uncertainty_table,
)
from db.records import Json
from db.states import QueueState

if TYPE_CHECKING:
    from campaigns.campaign import Campaign
    from campaigns.configuration import CampaignSection, Configuration

TEMPLATE = "report.html.j2"


def write_report(campaign: Campaign, out: Path) -> Path:
    """Write one self-contained HTML page on the status of ``campaign`` to ``out``, completely or not at all.

    The page holds all that it needs and makes no network requests; it works at any stage of a campaign.
    """
    out = Path(out)
    if out.is_dir():
        raise CampaignError(f"{out} is a folder; name the HTML file to write, e.g. {out / 'report.html'}")
    page = render(TEMPLATE, **_content(Evidence(campaign)))
    try:
        return write_whole(out, page)
    except OSError as error:
        raise CampaignError(f"cannot write {out} ({error.strerror}); choose another place with --out") from error


def _content(evidence: Evidence) -> Json:
    """Variables of the template, numbers as text."""
    from campaigns.report import figures

    section = evidence.section
    return {
        "section": section,
        "subject": _subject(section),
        "status": evidence.status,
        "state": evidence.state,
        "headline": _headline(evidence),
        "tiles": _tiles(evidence),
        "progress": [drawn(make(evidence)) for make in (figures.best_so_far, figures.enhancement, figures.errors)],
        "stopping": stopping_table(evidence),
        "stop": evidence.advice.stop,
        "cost": drawn(figures.costs(evidence)),
        "trust": [
            drawn(make(evidence))
            for make in (
                figures.parity_before,
                figures.parity_after,
                figures.calibration_curve,
                figures.coverage_by_round,
                figures.spread_by_round,
                figures.error_by_spread,
            )
        ],
        "uncertainty": uncertainty_table(evidence),
        "where": [drawn(panel) for panel in (figures.embedding(evidence), *figures.elements(evidence))],
        "queues": queue_tables(evidence),
        "rounds": round_table(evidence),
        "has_cost": bool(evidence.costs),
        "models": model_table(evidence),
        "facts": data_facts(evidence),
        "settings": _settings(evidence.campaign.configuration),
        "learned_unit": evidence.learned_unit,
    }


def _headline(evidence: Evidence) -> str:
    """Status of the campaign in a few sentences."""
    section, status = evidence.section, evidence.status
    sentences = [f"Among {count(status['materials'], 'material')}, this campaign searches for {_wanted(section)}."]
    best = _best(evidence)
    if best is None:
        sentences.append("No label is known yet.")
    else:
        id_, value = best
        number = evidence.queried_in.get(id_)
        found = f"found in round {number}" if number else "which no round queried"
        extreme = EXTREME.get(section.goal, "best")
        sentences.append(
            f"The {extreme} value so far is {significant(value, section.unit)}, of {evidence.formulas[id_]} ({id_}), "
            f"{found}."
        )
    if evidence.rounds:
        after = evidence.prospective()
        sentences.append(f"It has run {count(status['rounds'], 'round')}; {_awaited(evidence)}.")
        if after is not None:
            inside = after.inside
            sentences.append(
                f"Of {count(len(after), 'prediction')} with a label, {inside} ({percent(inside / len(after))}) "
                "had it within their 90 % interval."
            )
        if evidence.advice.stop:
            sentences.append(f"It is time to {evidence.advice.words}.")
    else:
        sentences.append("No round has been run yet.")
    return unbroken(" ".join(sentences))


def _awaited(evidence: Evidence) -> str:
    waiting = sum(not e.state.is_finished for e, _ in evidence.queue)
    if not waiting:
        return "nothing in the queue waits for a result"
    proposed = sum(e.state is QueueState.PROPOSED for e, _ in evidence.queue)
    approval = f", {proposed} of them for approval" if proposed else ""
    return f"{count(waiting, 'queue entry waits', 'queue entries wait')} for a result{approval}"


def _wanted(section: CampaignSection) -> str:
    """Which values are wanted, as text."""
    if section.target is not None:
        return f"{section.property} near {significant(section.target, section.unit)}"
    if section.window is not None:
        low, high = section.window
        return f"{section.property} from {significant(low)} to {significant(high, section.unit)}"
    return f"{'low' if section.goal == 'min' else 'high'} {section.property}"


def _subject(section: CampaignSection) -> str:
    """Which values are wanted, as a title."""
    if section.goal not in EXTREME:
        return _wanted(section)
    return f"{EXTREME[section.goal].capitalize()} {section.property}{in_unit(section.unit)}"


def _settings(configuration: Configuration) -> list[str]:
    """Settings of the next round, as short phrases."""
    model, acquisition, section = configuration.model, configuration.acquisition, configuration.campaign
    backbones = [model.backbone] if isinstance(model.backbone, str) else model.backbone
    beta = acquisition.beta if isinstance(acquisition.beta, str) else f"{acquisition.beta:g}"
    return [
        f"backbone {' and '.join(backbones)}",
        f"networks {model.networks}, {model.head} heads, {model.members} members",
        f"ranked by {acquisition.function}, beta {beta}",
        f"batches of {section.batch}, seed {section.seed}",
    ]


def _best(evidence: Evidence) -> tuple[str, float] | None:
    if not evidence.labels:
        return None
    goal = evidence.section.sought
    chosen = max(evidence.labels.values(), key=lambda label: float(goal.utility(label.value)))
    return chosen.material_id, chosen.value


def _tiles(evidence: Evidence) -> list[tuple[str, str, str]]:
    """Key figures: name, value and a remark."""
    status, section = evidence.status, evidence.section
    best = _best(evidence)
    waiting = sum(not e.state.is_finished for e, _ in evidence.queue)
    queried = len(evidence.queried_in)
    spent = sum(cost for _, cost, _ in evidence.costs)
    cost = [("core-hours", hours(spent), "of rounds that have ended")] if spent else []
    return [
        (
            "best so far",
            significant(best[1], section.unit) if best else significant(None),
            "" if best is None else f"{evidence.formulas[best[0]]}",
        ),
        ("labels", f"{status['labels']:,}", f"{queried:,} queried, {status['labels'] - queried:,} not"),
        ("budget", f"{status['asked']:,} of {section.budget:,}", "labels queried"),
        ("queue", f"{waiting:,}", "pending"),
        ("pool", f"{status['materials']:,}", "materials"),
        *cost,
    ]
