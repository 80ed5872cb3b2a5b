"""Changes of queue entries: moves, failures, retries, completion by labels; and entries as rows."""

from __future__ import annotations

import getpass
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Self

from campaigns.exceptions import CampaignError
from campaigns.round.manifest import RoundManifest
from campaigns.stability.names import stability_of
from db.records import FailureRecord, QueueEntryRecord
from db.states import QUEUE_MOVES, UNFINISHED, FailureKind, FailureReason, QueueState, RoundState

if TYPE_CHECKING:
    from campaigns.workspace import Workspace
    from db.store import Store

Cell = str | float | None


def move(
    workspace: Workspace, ids: Sequence[str], to: QueueState, note: str = "", fidelity: str | None = None
) -> list[QueueEntryRecord]:
    """Move the unfinished entries of these materials (of one ``fidelity`` if given); without ids, all that can."""
    with workspace.locked(), workspace.store.transaction():
        chosen = unfinished(workspace, ids, fidelity) if ids else [
            e for e in workspace.store.queue(UNFINISHED) if to in QUEUE_MOVES[e.state]
        ]  # fmt: skip
        move_entries(workspace.store, chosen, to, note)
    return chosen


def fail(workspace: Workspace, ids: Sequence[str], reason: FailureReason, message: str = "") -> list[QueueEntryRecord]:
    """Record that the calculations of these materials failed; their queue entries are failed."""
    section = workspace.configuration.campaign
    with workspace.locked(), workspace.store.transaction():
        chosen = unfinished(workspace, ids)
        workspace.store.add_failures(
            FailureRecord(e.material_id, section.property, e.fidelity, reason, message, source=author()) for e in chosen
        )
        move_entries(workspace.store, chosen, QueueState.FAILED, f"{reason}: {message}" if message else str(reason))
    return chosen


def retry(
    workspace: Workspace,
    ids: Sequence[str] | None,
    note: str = "",
    *,
    force: bool = False,
    fidelity: str | None = None,
) -> list[QueueEntryRecord]:
    """Approve again entries that failed by the machine; their failures are voided, and the result counts as any other.

    Parameters
    ----------
    workspace
        Where the campaign works.
    ids
        Any ids of the materials; ``None`` for all that may be retried.
    note
        Kept with the move and with the voided failure.
    force
        Whether to go beyond ``[labeler] max_retries``.
    fidelity
        Only entries of this fidelity.

    Raises
    ------
    CampaignError
        If an entry did not fail by the machine, or was retried as often as allowed; nothing is moved then.
    StaleQueueError
        If the label is pending in another entry.
    """
    with workspace.locked(), workspace.store.transaction():
        failures = Failed.of(workspace)

        def objection(entry: QueueEntryRecord) -> str:
            if entry.state is not QueueState.FAILED:
                return f"is {entry.state}, not failed"
            if not failures.is_by_machine(entry):
                why = failures.words(entry)
                return (
                    f"failed by itself ({why}); `kappascout queue reopen DIR {entry.material_id}` does it all the same"
                )
            limit = failures.limit(entry)
            if not force and retries(entry) >= limit:
                return f"was retried {retries(entry)} times, [labeler] max_retries = {limit}; --force goes beyond that"
            return ""

        chosen = _chosen(workspace, ids, fidelity, objection, "retried")
        _void(workspace.store, failures, chosen, note)
        move_entries(workspace.store, chosen, QueueState.APPROVED, note or "retry")
    return chosen


def reopen(
    workspace: Workspace,
    ids: Sequence[str],
    note: str = "",
    *,
    approve: bool = False,
    fidelity: str | None = None,
) -> list[QueueEntryRecord]:
    """Propose again entries that failed by their crystal, or were withdrawn or deferred; failures are voided.

    Parameters
    ----------
    workspace
        Where the campaign works.
    ids
        Any ids of the materials.
    note
        Kept with the move and with the voided failure.
    approve
        Whether to approve them at once.
    fidelity
        Only entries of this fidelity.

    Raises
    ------
    CampaignError
        If an entry cannot be reopened; nothing is moved then.
    StaleQueueError
        If the label is pending in another entry.
    """
    with workspace.locked(), workspace.store.transaction():
        failures = Failed.of(workspace)
        last = next(reversed(workspace.store.rounds()), None)
        begun = last.number if last is not None and last.state.step < RoundState.QUEUED.step else None

        def objection(entry: QueueEntryRecord) -> str:
            if entry.state is QueueState.DEFERRED and begun is not None:
                return f"is a candidate of round {begun}, which has begun; finish it with `kappascout run DIR` first"
            if entry.state in (QueueState.WITHDRAWN, QueueState.DEFERRED):
                return ""
            if entry.state is not QueueState.FAILED:
                return f"is {entry.state}"
            if failures.is_by_machine(entry):
                why = failures.words(entry)
                return f"failed by the machine ({why}); `kappascout queue retry DIR {entry.material_id}` tries again"
            return ""

        chosen = _chosen(workspace, ids, fidelity, objection, "reopened")
        _void(workspace.store, failures, [e for e in chosen if e.state is QueueState.FAILED], note)
        move_entries(workspace.store, chosen, QueueState.PROPOSED, note or "reopened")
        if approve:
            move_entries(workspace.store, chosen, QueueState.APPROVED, note or "reopened")
    return chosen


def defer(
    workspace: Workspace, ids: Sequence[str], note: str = "", fidelity: str | None = None
) -> list[QueueEntryRecord]:
    """Leave proposed or approved entries out of their round; the next round may choose their materials again.

    Raises
    ------
    CampaignError
        If an entry is neither proposed nor approved; nothing is moved then.
    """

    def objection(entry: QueueEntryRecord) -> str:
        return "" if QueueState.DEFERRED in QUEUE_MOVES[entry.state] else f"is {entry.state}, not proposed or approved"

    with workspace.locked(), workspace.store.transaction():
        chosen = _chosen(workspace, ids, fidelity, objection, "deferred")
        move_entries(workspace.store, chosen, QueueState.DEFERRED, note)
    return chosen


def finish_entries(workspace: Workspace, note: str) -> None:
    """Move entries whose label is in the store to done, those that the machine failed too; proposed ones are approved.

    Must run inside a transaction of the campaign.
    """
    store = workspace.store
    entries, failed = store.queue(UNFINISHED), store.queue([QueueState.FAILED])
    if not entries and not failed:
        return
    properties = {r.number: RoundManifest.of(r).target for r in store.rounds()}
    known = {(label.material_id, label.property, label.fidelity) for label in store.labels()}
    found = [e for e in entries if (e.material_id, properties[e.round or 0], e.fidelity) in known]
    move_entries(store, [e for e in found if e.state is QueueState.PROPOSED], QueueState.APPROVED, note)
    move_entries(store, found, QueueState.DONE, note)
    came = [e for e in failed if (e.material_id, properties[e.round or 0], e.fidelity) in known]
    move_entries(store, [e for e in came if approve_finished(workspace, e, note)], QueueState.DONE, note)


def unfinished(workspace: Workspace, ids: Sequence[str], fidelity: str | None = None) -> list[QueueEntryRecord]:
    """Find the unfinished entries of these materials, under any id they are known by; a material may have several.

    Raises
    ------
    CampaignError
        If a material has none.
    """
    entries: dict[str, list[QueueEntryRecord]] = {}
    for entry in workspace.store.queue(UNFINISHED, material_ids=ids):
        if fidelity in (None, entry.fidelity):
            entries.setdefault(entry.material_id, []).append(entry)
    owners = workspace.store.resolve_all(ids)
    absent = [id_ for id_ in ids if owners[id_] not in entries]
    if absent:
        raise CampaignError(
            f"not in the queue, or finished: {', '.join(absent)}; `kappascout queue list {workspace.directory}` shows "
            "it"
        )
    return [e for material_id in dict.fromkeys(owners[id_] for id_ in ids) for e in entries[material_id]]


def approve_finished(workspace: Workspace, entry: QueueEntryRecord, note: str) -> bool:
    """Approve again an entry that failed by the machine and whose result has come without a retry; whether it was.

    Must run inside a transaction of the campaign, which moves the entry to done with its label.
    """
    failures = Failed.of(workspace)
    pending = workspace.store.queue(UNFINISHED, material_ids=[entry.material_id])
    if not failures.is_by_machine(entry) or any(other.fidelity == entry.fidelity for other in pending):
        return False
    _void(workspace.store, failures, [entry], note)
    move_entries(workspace.store, [entry], QueueState.APPROVED, note)
    return True


def retries(entry: QueueEntryRecord) -> int:
    """How often a failed entry was approved again."""
    return sum((m.from_state, m.to_state) == (QueueState.FAILED, QueueState.APPROVED) for m in entry.history)


class Failed:
    """Failures that stand, by the queue entry that they ended."""

    def __init__(self, failures: Iterable[FailureRecord], properties: Mapping[int, str], limits: Mapping[str, int]):
        """``properties`` are those that rounds queried, by number; ``limits`` the retries allowed, by fidelity."""
        self._properties = properties
        self._limits = limits
        self._of: dict[tuple[str, str, str], list[FailureRecord]] = {}
        for failure in failures:
            self._of.setdefault((failure.material_id, failure.property, failure.fidelity), []).append(failure)

    @classmethod
    def of(cls, workspace: Workspace) -> Self:
        """Read those of a campaign."""
        store = workspace.store
        limits = {name: settings.labeler.max_retries for name, settings in workspace.configuration.labelers().items()}
        return cls(store.failures(), {r.number: RoundManifest.of(r).target for r in store.rounds()}, limits)

    def all_of(self, entry: QueueEntryRecord) -> list[FailureRecord]:
        """Failures of a failed entry, first to last; there may be none."""
        if entry.state is not QueueState.FAILED:
            return []
        return self._of.get((entry.material_id, self._properties[entry.round or 0], entry.fidelity), [])

    def is_by_machine(self, entry: QueueEntryRecord) -> bool:
        """Whether a failed entry ended by the machine; not where no reason is known."""
        found = self.all_of(entry)
        return bool(found) and found[-1].reason.kind is FailureKind.MACHINE

    def kind(self, entry: QueueEntryRecord) -> FailureKind | None:
        """What a failed entry is due to; None for an entry that has not failed."""
        if entry.state is not QueueState.FAILED:
            return None
        return FailureKind.MACHINE if self.is_by_machine(entry) else FailureKind.CRYSTAL

    def words(self, entry: QueueEntryRecord) -> str:
        """Reason and message of a failed entry; empty for one that has not failed."""
        if entry.state is not QueueState.FAILED:
            return ""
        found = self.all_of(entry)
        if not found:
            return entry.history[-1].note if entry.history else ""
        return f"{found[-1].reason}: {found[-1].message}" if found[-1].message else str(found[-1].reason)

    def limit(self, entry: QueueEntryRecord) -> int:
        """How often an entry may be retried."""
        return self._limits.get(entry.fidelity, max(self._limits.values()))

    def columns(self, entry: QueueEntryRecord) -> dict[str, Cell]:
        """What an entry failed by and why, and the command that gives it another chance; None where it has not."""
        kind = self.kind(entry)
        return {"failed_by": kind, "failure": self.words(entry) if kind else None, "remedy": self._remedy(entry)}

    def counts(self, entries: Iterable[QueueEntryRecord]) -> dict[str, int]:
        """Number of failed entries by kind of failure, where there are any."""
        kinds = Counter(self.kind(entry) for entry in entries)
        return {str(kind): kinds[kind] for kind in FailureKind if kinds[kind]}

    def _remedy(self, entry: QueueEntryRecord) -> str | None:
        """Command that gives an entry another chance; None where there is nothing to do."""
        if entry.state in (QueueState.WITHDRAWN, QueueState.DEFERRED):
            return "queue reopen"
        if entry.state is not QueueState.FAILED:
            return None
        if not self.is_by_machine(entry):
            return "queue reopen"
        return "queue retry" if retries(entry) < self.limit(entry) else "queue retry --force"


def _chosen(
    workspace: Workspace,
    ids: Sequence[str] | None,
    fidelity: str | None,
    objection: Callable[[QueueEntryRecord], str],
    done: str,
) -> list[QueueEntryRecord]:
    """Latest entries of these materials (of all for ``None``) to which there is no objection.

    A material has a latest entry for each fidelity; one of them without an objection is enough.
    """
    latest = {}
    for entry in workspace.store.queue(material_ids=ids):
        if fidelity in (None, entry.fidelity):
            latest[entry.material_id, entry.fidelity] = entry
    said = [(entry, objection(entry)) for entry in latest.values()]
    if ids is None:
        return [entry for entry, words in said if not words]
    owners = workspace.store.resolve_all(ids)
    problems, chosen = [], []
    for id_ in dict.fromkeys(owners[id_] for id_ in ids):
        own = [(entry, words) for entry, words in said if entry.material_id == id_]
        free = [entry for entry, words in own if not words]
        chosen += free
        if not free:
            problems.append(f"{id_} {'; '.join(words for _, words in own) or 'is not in the queue'}")
    if problems:
        raise CampaignError(f"cannot be {done}, and nothing was changed: " + "\n".join(problems))
    return chosen


def _void(store: Store, failures: Failed, entries: Sequence[QueueEntryRecord], note: str) -> None:
    ids = [failure.id or 0 for entry in entries for failure in failures.all_of(entry)]
    if ids:
        store.void_failures(ids, author(), note)


def move_entries(store: Store, entries: Sequence[QueueEntryRecord], to: QueueState, note: str = "") -> None:
    """Move entries in the name of the user."""
    store.move([e.id for e in entries if e.id is not None], to, author(), note)


def with_formula(store: Store, entries: Sequence[QueueEntryRecord]) -> list[tuple[QueueEntryRecord, str]]:
    """Entries with the formula of their material."""
    ids = dict.fromkeys(e.material_id for e in entries)
    formulas = {key.material_id: key.formula for key in store.material_index(ids)}
    return [(e, formulas[e.material_id]) for e in entries]


def queue_rows(workspace: Workspace, entries: Sequence[QueueEntryRecord]) -> list[dict[str, Cell]]:
    """Queue entries as flat rows for display, with stability as it is known now, failures and their remedies."""
    store, failures = workspace.store, Failed.of(workspace)
    stability = stability_of(store, dict.fromkeys(entry.material_id for entry in entries))
    rows = (queue_row(e, formula, stability.get(e.material_id)) for e, formula in with_formula(store, entries))
    return [row | failures.columns(entry) for row, entry in zip(rows, entries, strict=True)]


def queue_row(entry: QueueEntryRecord, formula: str, stability: str | None = None) -> dict[str, Cell]:
    """A queue entry as one flat row for display."""
    return {
        "round": entry.round,
        "rank": entry.rank,
        "id": entry.material_id,
        "formula": formula,
        "state": str(entry.state),
        "mean": entry.predicted_mean,
        "lower": entry.predicted_lower,
        "upper": entry.predicted_upper,
        "log10_mean": entry.log10_mean,
        "log10_std": entry.log10_std,
        "acquisition": entry.acquisition_value,
        "cost": entry.expected_cost,
        "fidelity": entry.fidelity,
        "stability": stability,
        "reason": entry.reason,
    }


def author() -> str:
    """Name of the user, stored with each move and withdrawal."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
