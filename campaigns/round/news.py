"""Whether anything has happened since the last batch was ranked, so that another would be a better choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from campaigns.pool.costs import pricing_settings
from campaigns.round.manifest import RoundManifest
from campaigns.round.opening import changed_settings
from db.states import QueueState

if TYPE_CHECKING:
    from campaigns.workspace import Workspace
    from db.records import QueueEntryRecord, RoundRecord


def nothing_new(workspace: Workspace, unfinished: Sequence[QueueEntryRecord]) -> str:
    """Why another round would only propose more of the same; empty where there is a reason for one.

    Entries wait for approval, and since the last round began there is no new label, withdrawal of a label, failure,
    material or setting, and no entry was approved, withdrawn or finished since its batch was queued.
    """
    proposed = [e for e in unfinished if e.state is QueueState.PROPOSED]
    last = next(reversed(workspace.store.rounds()), None)
    if not proposed or last is None or _has_news(workspace, last):
        return ""
    where = workspace.directory
    noun, verb = ("entry", "is") if len(proposed) == 1 else ("entries", "are")
    return (
        f"nothing new since round {last.number}; {len(proposed)} {noun} {verb} proposed: `kappascout queue approve "
        f"{where}` or `kappascout queue withdraw {where} ID...`"
    )


def _has_news(workspace: Workspace, last: RoundRecord) -> bool:
    store, manifest = workspace.store, RoundManifest.of(last)
    target = workspace.configuration.campaign.property
    failures = max((f.id or 0 for f in store.failures(target)), default=0)
    if (store.last_label(), store.last_withdrawal(), failures) != (
        manifest.labels_up_to,
        manifest.withdrawals_up_to,
        manifest.failures_up_to,
    ):
        return True
    settings = workspace.configuration
    if store.counts()["materials"] != manifest.materials or changed_settings(settings, last):
        return True
    if pricing_settings(settings) != manifest.dft:
        return True
    queued_at = [e.history[0].at for e in store.queue(round=last.number) if e.history]
    if not queued_at:
        return True
    moves = (change for e in store.queue() for change in e.history if change.from_state is not None)
    return any(change.at >= min(queued_at) for change in moves)
