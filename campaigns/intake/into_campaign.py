"""Candidates into a campaign: names of their labels are checked first, and doubtful labels reported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from campaigns.exceptions import CampaignError
from campaigns.intake.crystals import ingest
from campaigns.intake.doubts import new_doubts
from campaigns.intake.ingest_report import IngestReport
from campaigns.intake.label_fields import LabelField
from campaigns.intake.label_names import LabelNames
from campaigns.intake.withdrawal import withdrawn_before

if TYPE_CHECKING:
    from campaigns.workspace import Workspace


def ingest_checked(
    workspace: Workspace,
    sources: Sequence[str],
    labels: Sequence[LabelField],
    workers: int | None,
    say: Callable[[str], None],
    *,
    new_property: bool,
) -> IngestReport:
    """Add candidates to a campaign; arguments as of :meth:`Campaign.ingest`.

    Raises
    ------
    CampaignError
        If the name of a property or fidelity of ``labels`` is close to a known one, without ``new_property``.
    """
    store = workspace.store
    with workspace.locked():
        names = LabelNames.of(workspace.configuration, store)
        mistakes = [] if new_property else names.mistakes((f.property, f.fidelity) for f in labels)
        if any(mistakes):
            raise CampaignError("; ".join(dict.fromkeys(filter(None, mistakes))))
        report = ingest(store, sources, labels, workers, say, workspace.artifacts / "sources")
        report.doubtful = new_doubts(store, report.label_ids)
        if known := withdrawn_before(store, report.unchanged_label_ids):
            report.notes.append(f"{len(known)} labels have the value they were withdrawn with and stay withdrawn")
    return report
