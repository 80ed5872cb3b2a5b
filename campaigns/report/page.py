"""The report as a page: figures, tables and a few sentences in one HTML file that opens offline."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from campaigns.exceptions import CampaignError
from campaigns.files import write_whole
from campaigns.report.evidence import EXTREME, Evidence
from campaigns.report.numbers import count, hours, percent, significant, unbroken
from campaigns.report.tables import (
    data_facts,
    model_table,
    queue_tables,
    round_table,
    stopping_table,
    uncertainty_table,
)
from db.states import QueueState

if TYPE_CHECKING:
    from campaigns.campaign import Campaign
    from campaigns.configuration import CampaignSection
    from campaigns.report.figures import Panel

TEMPLATE = "report.html.j2"
VERSIONS = ("kappascout", "torch", "matgl", "botorch", "gpytorch", "pymatgen", "plotly")
_IN_SCRIPT = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})
"""No name of a material can end the script element that it stands in."""


def write_report(campaign: Campaign, out: Path) -> Path:
    """Write one self-contained HTML page on where ``campaign`` stands to ``out``, whole or not at all.

    The page holds all that it needs and forbids itself any request; it works with whatever part of a campaign there is.
    """
    from plotly.offline import get_plotlyjs

    out = Path(out)
    if out.is_dir():
        raise CampaignError(f"{out} is a folder; name the HTML file to write, e.g. {out / 'report.html'}")
    page = _template().render(plotly=_as_is(get_plotlyjs()), **_content(Evidence(campaign)))
    try:
        return write_whole(out, page)
    except OSError as error:
        raise CampaignError(f"cannot write {out} ({error.strerror}); choose another place with --out") from error


def _content(evidence: Evidence) -> dict[str, Any]:
    """Everything the template names, numbers already in words."""
    from campaigns.report import figures

    section = evidence.section
    settings = evidence.campaign.configuration
    return {
        "section": section,
        "status": evidence.status,
        "state": evidence.state,
        "headline": _headline(evidence),
        "tiles": _tiles(evidence),
        "progress": [_drawn(make(evidence)) for make in (figures.best_so_far, figures.enhancement, figures.errors)],
        "stopping": stopping_table(evidence),
        "stop": evidence.advice.stop,
        "cost": _drawn(figures.costs(evidence)),
        "trust": [
            _drawn(make(evidence))
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
        "where": [_drawn(panel) for panel in (figures.embedding(evidence), *figures.elements(evidence))],
        "queues": queue_tables(evidence),
        "rounds": round_table(evidence),
        "has_cost": bool(evidence.costs),
        "models": model_table(evidence),
        "facts": data_facts(evidence),
        "model": settings.model,
        "acquisition": settings.acquisition,
        "learned_unit": "log10" if evidence.scale.name == "log10" else section.unit,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "versions": {"Python": platform.python_version(), **{name: version(name) for name in VERSIONS}},
    }


def _headline(evidence: Evidence) -> str:
    """Where the campaign stands in a few sentences."""
    section, status = evidence.section, evidence.status
    sentences = [f"Among {count(status['materials'], 'material')}, this campaign looks for {_wanted(section)}."]
    best = _best(evidence)
    if best is None:
        sentences.append("No label is known yet.")
    else:
        id_, value = best
        number = evidence.bought_in.get(id_)
        found = f"found in round {number}" if number else "known before the first round"
        extreme = EXTREME.get(section.goal, "best")
        sentences.append(
            f"The {extreme} value so far is {significant(value, section.unit)}, of {evidence.formulas[id_]} ({id_}), "
            f"{found}."
        )
    if evidence.rounds:
        after = evidence.prospective()
        sentences.append(f"It has run {count(status['rounds'], 'round')}; {_awaited(evidence)}.")
        if after is not None:
            inside = int((abs(after.z) <= 1.6448536269514722).sum())
            sentences.append(
                f"Of {count(len(after), 'prediction')} that met their label, {inside} ({percent(inside / len(after))}) "
                "held it within their 90 % interval."
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
    """Name what is looked for."""
    if section.target is not None:
        return f"{section.property} near {significant(section.target, section.unit)}"
    if section.window is not None:
        low, high = section.window
        return f"{section.property} from {significant(low)} to {significant(high, section.unit)}"
    return f"{'low' if section.goal == 'min' else 'high'} {section.property}"


def _best(evidence: Evidence) -> tuple[str, float] | None:
    if not evidence.labels:
        return None
    goal = evidence.section.sought
    chosen = max(evidence.labels.values(), key=lambda label: float(goal.utility(label.value)))
    return chosen.material_id, chosen.value


def _tiles(evidence: Evidence) -> list[tuple[str, str, str]]:
    """Head figures: what, how much, and a word more."""
    status, section = evidence.status, evidence.section
    best = _best(evidence)
    waiting = sum(not e.state.is_finished for e, _ in evidence.queue)
    bought = len(evidence.bought_in)
    spent = sum(cost for _, cost, _ in evidence.costs)
    cost = [("core-hours", hours(spent), "of rounds that have ended")] if spent else []
    return [
        (
            "best so far",
            significant(best[1], section.unit) if best else significant(None),
            "" if best is None else f"{evidence.formulas[best[0]]}",
        ),
        ("labels", f"{status['labels']:,}", f"{bought:,} asked for, {status['labels'] - bought:,} known before"),
        ("budget", f"{status['asked']:,} of {section.budget:,}", "labels asked for"),
        ("queue", f"{waiting:,}", "waiting for a result"),
        ("pool", f"{status['materials']:,}", "materials"),
        *cost,
    ]


def _drawn(panel: Panel) -> dict[str, Any]:
    """Give a panel its figure as JSON that is safe inside a script element."""
    figure = panel.figure
    return {
        "key": panel.key,
        "title": panel.title,
        "reading": unbroken(panel.reading),
        "shape": panel.shape,
        "json": None if figure is None else _as_is(figure.to_json().translate(_IN_SCRIPT)),
    }


def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("campaigns", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE)


def _as_is(html: str) -> Any:
    """Text of a script element: HTML escapes do not apply there."""
    from markupsafe import Markup

    return Markup(html)
