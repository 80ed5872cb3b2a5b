"""Rounds one after another, until results are pending, the budget is spent, or stopping is advised."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from campaigns.budget import batch_within_budget, spent
from campaigns.exceptions import NoCandidatesError
from campaigns.intake.doubts import best_doubt, new_doubts
from campaigns.pool.labels import fidelity_note, training_labels
from campaigns.property_names import Property
from campaigns.queue import finish_entries
from campaigns.round.judge import is_outdated, judge_round
from campaigns.round.news import nothing_new
from campaigns.round.opening import changed_settings, open_round
from campaigns.round.steps import finish_round
from campaigns.round.stopping import stopping_advice
from db.states import UNFINISHED, CampaignState, JobState, QueueState, RoundState

if TYPE_CHECKING:
    from campaigns.labelers.labelers import Labeler
    from campaigns.workspace import Workspace
    from db.records import QueueEntryRecord
    from db.store import Store

Stopped = Literal["rounds", "waiting", "nothing new", "budget", "candidates", "advice"]


@dataclass(frozen=True)
class RunReport:
    """Result of a run and why it ended."""

    rounds: tuple[int, ...]
    """Numbers of the rounds that were queued or evaluated."""
    stopped: Stopped
    message: str


@dataclass(eq=False)
class Loop:
    """One run of a campaign; the caller holds the campaign's lock."""

    workspace: Workspace
    labeler: Labeler
    say: Callable[[str], None]
    begun: list[int] = field(default_factory=list)
    """Rounds that this run began or continued."""
    done: list[int] = field(default_factory=list)
    """Those, and rounds that were evaluated."""

    def run(self, rounds: int | None, wait: bool, go_on: bool) -> RunReport:
        """Do as many rounds as the labeler, the budget and ``rounds`` allow; arguments as of :meth:`Campaign.run`."""
        self._go_on()
        while True:
            self._collect()
            left = self.workspace.store.queue(UNFINISHED)
            if left and (wait or len(self.begun) >= (rounds or 1)):
                return self._stop(CampaignState.WAITING, "waiting", waiting_words(self.workspace, left))
            if rounds is not None and len(self.begun) >= rounds:
                return self._report("rounds", f"rounds requested and done: {rounds}")
            if left and (words := nothing_new(self.workspace, left)):
                return self._stop(CampaignState.WAITING, "nothing new", words)
            if ended := self._ended(CampaignState.WAITING if left else CampaignState.STOPPED, go_on):
                return ended
            for note in label_notes(self.workspace) if not self.begun else ():
                self.say(note)
            try:
                record = open_round(self.workspace, batch_within_budget(self.workspace))
            except NoCandidatesError as error:
                if not self.done:
                    raise
                return self._stop(CampaignState.STOPPED, "candidates", str(error))
            _set_state(self.workspace.store, CampaignState.ACTIVE)
            finish_round(self.workspace, record, self.say)
            self._count(record.number)

    def _go_on(self) -> None:
        """Finish the round that an earlier run left unfinished, if it did."""
        last = next(reversed(self.workspace.store.rounds()), None)
        if last is None or last.state.step >= RoundState.QUEUED.step:
            return
        self.say(f"round {last.number}: continuing after its last finished step, {last.state}")
        if changed := changed_settings(self.workspace.configuration, last):
            self.say(f"round {last.number}: keeps the settings it began with; changed since: {', '.join(changed)}")
        finish_round(self.workspace, last, self.say)
        self._count(last.number)

    def _collect(self) -> None:
        """Run the labeler, finish entries whose label is there, evaluate rounds whose entries are all finished.

        An entry that failed has ended, by whatever; a round is evaluated again when entries that were retried or
        reopened have ended in another state.
        """
        store = self.workspace.store
        if entries := store.queue(UNFINISHED):
            before = store.last_label()
            self.labeler.work(store, entries, self.say)
            for doubt in new_doubts(store, range(before + 1, store.last_label() + 1)):
                self.say(f"doubtful: {doubt}")
            with store.transaction():
                finish_entries(self.workspace, "label found")
        of_round: dict[int, list[QueueEntryRecord]] = {}
        for entry in store.queue():
            of_round.setdefault(entry.round or 0, []).append(entry)
        for record in store.rounds():
            own = of_round.get(record.number, [])
            is_open = record.state.step < RoundState.QUEUED.step or not all(e.state.is_finished for e in own)
            if not is_open and (record.state is RoundState.QUEUED or is_outdated(record, own)):
                judge_round(self.workspace, self.labeler, record, own)
                self.say(f"round {record.number}: evaluated")
                self.done.append(record.number)

    def _ended(self, state: CampaignState, go_on: bool) -> RunReport | None:
        """Stop where the budget is spent, or stopping is advised and ``[stopping] action`` is ``stop``."""
        if budget := spent(self.workspace):
            return self._stop(state, "budget", budget)
        if self.workspace.configuration.stopping.action == "stop" and not go_on:
            advice = stopping_advice(self.workspace)
            if advice.stop:
                onward = f"`kappascout run {self.workspace.directory} --go-on` starts another round all the same"
                return self._stop(state, "advice", f"{advice.words}; {onward}")
        return None

    def _count(self, number: int) -> None:
        self.begun.append(number)
        self.done.append(number)

    def _stop(self, state: CampaignState, stopped: Stopped, message: str) -> RunReport:
        _set_state(self.workspace.store, state)
        return self._report(stopped, message)

    def _report(self, stopped: Stopped, message: str) -> RunReport:
        return RunReport(tuple(dict.fromkeys(self.done)), stopped, message)


def label_notes(workspace: Workspace) -> Iterator[str]:
    """Report labels that do not train, and a doubtful best value, before a round begins."""
    labels = training_labels(workspace.store, workspace.configuration)
    if note := fidelity_note(workspace.store, workspace.configuration):
        yield note
    if doubt := best_doubt(workspace, labels):
        yield (
            f"the best so far is doubtful, and every candidate is compared with it: {doubt}; if it is wrong, "
            f"`kappascout label withdraw {workspace.directory} {doubt.label.id} --reason TEXT` withdraws it"
        )


def waiting_words(workspace: Workspace, left: Sequence[QueueEntryRecord]) -> str:
    """Message with the number of pending results, and the next commands."""
    proposed = sum(e.state is QueueState.PROPOSED for e in left)
    where = workspace.directory
    steps = f"`kappascout label import {where} FILE` when results are there"
    if any(e.state in (QueueState.PROPOSED, QueueState.APPROVED) for e in left):
        steps = f"`kappascout queue export {where} --to OUT`, then {steps}"
        if Property(workspace.configuration.campaign.property).is_conductivity:
            steps = f"`kappascout submit {where}` and `kappascout watch {where}`; or by hand {steps}"
    elif workspace.store.jobs([state for state in JobState if not state.is_finished]):
        steps = f"`kappascout watch {where}` follows their jobs"
    if proposed:
        steps = f"`kappascout queue approve {where}`, then {steps}"
    return f"waiting for {len(left)} results ({proposed} not approved yet): {steps}"


def _set_state(store: Store, state: CampaignState) -> None:
    with store.transaction():
        present = store.campaign().state
        if state is CampaignState.WAITING and present is CampaignState.STOPPED:
            store.set_campaign_state(CampaignState.ACTIVE)
        if present is not state:
            store.set_campaign_state(state)
