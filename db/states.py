"""States of queue entries, rounds and campaigns, kinds of failure, with a sentence for each; the legal moves."""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import Self


class _Explained(StrEnum):
    """A value with a sentence that explains it."""

    meaning: str

    def __new__(cls, value: str, meaning: str) -> Self:
        """Member with its value and the sentence that explains it."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member


class QueueState(_Explained):
    """State of a queue entry on the way to a label."""

    PROPOSED = "proposed", "Ranked by a round; not approved yet."
    APPROVED = "approved", "To be computed by a labeler, or to be exported."
    EXPORTED = "exported", "Its inputs are written; the calculation is not known to have started."
    RUNNING = "running", "The calculation has started."
    DONE = "done", "Its label is in the store, or its relaxed cell is kept (`--format vasp`)."
    FAILED = "failed", "The calculation ended without a label; the material waits for a retry, or to be reopened."
    WITHDRAWN = "withdrawn", "Taken off the queue on purpose; the material is not proposed again unless reopened."
    DEFERRED = "deferred", "Left out of this round; the material is a candidate again in the next one."

    @property
    def is_finished(self) -> bool:
        """Whether no result is expected unless somebody retries or reopens the entry.

        Rounds whose entries are all finished are evaluated; finished entries are not pending.
        """
        return self in _FINISHED


class RoundState(_Explained):
    """The last finished step of a round; a round only moves forward."""

    STARTED = "started", "The round has its number and its manifest."
    EMBEDDED = "embedded", "Every candidate has its embedding on disk."
    TRAINED = "trained", "The ensemble is trained and its checkpoints are stored."
    SCORED = "scored", "The whole pool has predictions, stored as an artifact."
    RANKED = "ranked", "The batch is chosen."
    QUEUED = "queued", "The batch is in the queue; its labels are pending."
    JUDGED = "judged", "Labels of the batch have arrived and the predictions were compared with them."

    @property
    def is_finished(self) -> bool:
        """Whether the round has been evaluated."""
        return self is RoundState.JUDGED

    @property
    def step(self) -> int:
        """Position in the order of steps, from 0."""
        return list(RoundState).index(self)


class CampaignState(_Explained):
    """State of a campaign."""

    ACTIVE = "active", "May start another round."
    WAITING = "waiting", "A queue is out and its labels are pending."
    STOPPED = "stopped", "A stopping rule, the budget or the user ended it; it can be continued."

    @property
    def is_finished(self) -> bool:
        """Whether no round starts unless the user requests it."""
        return self is CampaignState.STOPPED


class JobState(_Explained):
    """State of a job of a queueing system."""

    WRITTEN = "written", "Its script is there; the queueing system is not known to have taken it."
    QUEUED = "queued", "Waits in the queueing system."
    RUNNING = "running", "Runs; of an array, at least one task does."
    ENDED = "ended", "Ended with exit code 0."
    FAILED = "failed", "Ended with another exit code, or was ended by the queueing system."
    CANCELLED = "cancelled", "Cancelled because its entry is not wanted any more, or a job that it waits for failed."
    VANISHED = "vanished", "Gone from the queueing system without a record of its end."
    REFUSED = "refused", "Not taken by the queueing system, or another run held its folder; it is no attempt."

    @property
    def is_finished(self) -> bool:
        """Whether the job is over."""
        return self not in (JobState.WRITTEN, JobState.QUEUED, JobState.RUNNING)


class FailureKind(_Explained):
    """What a failure is due to, and with it what may be done about it."""

    CRYSTAL = "crystal", "Due to the crystal: it would fail again, and says something about similar crystals."
    MACHINE = "machine", "Due to machine, limits or installation: it may be retried, and says nothing of the crystal."


class FailureReason(StrEnum):
    """Why a calculation gave no label."""

    meaning: str
    """The sentence that explains it."""
    kind: FailureKind
    """What it is due to."""

    def __new__(cls, value: str, kind: FailureKind, meaning: str) -> Self:
        """Member with its value, kind and sentence."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.kind = kind
        member.meaning = meaning
        return member

    IMAGINARY_MODES = (
        "imaginary_modes",
        FailureKind.CRYSTAL,
        "The harmonic phonons have imaginary frequencies beyond the tolerance.",
    )
    NOT_CONVERGED = "not_converged", FailureKind.CRYSTAL, "The calculation ended without converging."
    SYMMETRY_BROKEN = (
        "symmetry_broken",
        FailureKind.CRYSTAL,
        "The relaxed structure has lost symmetry of the exported one.",
    )
    BELOW_FLOOR = "below_floor", FailureKind.CRYSTAL, "The value is too small to be physical."
    TOO_LARGE = "too_large", FailureKind.CRYSTAL, "It needs more supercells, atoms or core-hours than the limits allow."
    TOO_LONG = (
        "too_long",
        FailureKind.CRYSTAL,
        "A labeler that calculates here did not finish this crystal within [labeler] time_limit.",
    )
    CRASHED = (
        "crashed",
        FailureKind.CRYSTAL,
        "The program crashes on this crystal, each time: calculated here, or VASP in a known way with other tags too.",
    )
    REJECTED = "rejected", FailureKind.CRYSTAL, "A person or a check refused the result."
    TIMED_OUT = "timed_out", FailureKind.MACHINE, "The job was ended at its time limit."
    CALCULATOR_ERROR = "calculator_error", FailureKind.MACHINE, "The program ended with an error or was killed."
    BAD_OUTPUT = (
        "bad_output",
        FailureKind.MACHINE,
        "The result files are truncated, inconsistent, or hold values that are not finite.",
    )
    NODE_FAILED = "node_failed", FailureKind.MACHINE, "A node of the job failed."
    OUT_OF_MEMORY = "out_of_memory", FailureKind.MACHINE, "The job needed more memory than it had."
    DISK_FULL = "disk_full", FailureKind.MACHINE, "There was no space left on the disk."
    MISSING_SETUP = (
        "missing_setup",
        FailureKind.MACHINE,
        "A program or a pseudopotential was not found: command, POTCAR_DIR, POTCAR.",
    )
    VANISHED = "vanished", FailureKind.MACHINE, "The job is gone without a word."
    CANCELLED = "cancelled", FailureKind.MACHINE, "The job was cancelled."


_FINISHED = frozenset({QueueState.DONE, QueueState.FAILED, QueueState.WITHDRAWN, QueueState.DEFERRED})

QUEUE_MOVES: MappingProxyType[QueueState, frozenset[QueueState]] = MappingProxyType(
    {
        QueueState.PROPOSED: frozenset({QueueState.APPROVED, QueueState.WITHDRAWN, QueueState.DEFERRED}),
        QueueState.APPROVED: frozenset(
            {
                QueueState.EXPORTED,
                QueueState.RUNNING,
                QueueState.DONE,
                QueueState.FAILED,
                QueueState.WITHDRAWN,
                QueueState.DEFERRED,
            }
        ),
        QueueState.EXPORTED: frozenset({QueueState.RUNNING, QueueState.DONE, QueueState.FAILED, QueueState.WITHDRAWN}),
        QueueState.RUNNING: frozenset({QueueState.DONE, QueueState.FAILED, QueueState.WITHDRAWN}),
        QueueState.DONE: frozenset(),
        QueueState.FAILED: frozenset({QueueState.APPROVED, QueueState.PROPOSED}),
        QueueState.WITHDRAWN: frozenset({QueueState.PROPOSED}),
        QueueState.DEFERRED: frozenset({QueueState.PROPOSED}),
    }
)

UNFINISHED = tuple(state for state in QueueState if not state.is_finished)
"""States of entries whose result is pending."""

CAMPAIGN_MOVES: MappingProxyType[CampaignState, frozenset[CampaignState]] = MappingProxyType(
    {
        CampaignState.ACTIVE: frozenset({CampaignState.WAITING, CampaignState.STOPPED}),
        CampaignState.WAITING: frozenset({CampaignState.ACTIVE, CampaignState.STOPPED}),
        CampaignState.STOPPED: frozenset({CampaignState.ACTIVE}),
    }
)


def round_moves(state: RoundState) -> list[RoundState]:
    """States a round may go to: any later step (some are skipped without a model), ``judged`` only once queued."""
    later = [to for to in RoundState if to.step > state.step]
    return later if state is RoundState.QUEUED else [to for to in later if to is not RoundState.JUDGED]
