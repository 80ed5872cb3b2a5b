"""States of queue entries, rounds and campaigns, with a sentence for each, and the legal moves."""

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
    FAILED = "failed", "The calculation ended without a label; rounds do not propose the material again."
    WITHDRAWN = "withdrawn", "Taken off the queue on purpose; the material is not proposed again."

    @property
    def is_finished(self) -> bool:
        """Whether there is no further move."""
        return not QUEUE_MOVES[self]


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


class FailureReason(_Explained):
    """Why a calculation gave no label."""

    IMAGINARY_MODES = "imaginary_modes", "The harmonic phonons have imaginary frequencies beyond the tolerance."
    NOT_CONVERGED = "not_converged", "The calculation ended without converging."
    TIMED_OUT = "timed_out", "The calculation ran past its time limit."
    SYMMETRY_BROKEN = "symmetry_broken", "The relaxed structure has lost symmetry of the exported one."
    BELOW_FLOOR = "below_floor", "The value is too small to be physical."
    BAD_OUTPUT = "bad_output", "The result files are truncated, inconsistent, or hold values that are not finite."
    CALCULATOR_ERROR = "calculator_error", "The calculator raised an error or was killed."
    REJECTED = "rejected", "A person or a check refused the result."


QUEUE_MOVES: MappingProxyType[QueueState, frozenset[QueueState]] = MappingProxyType(
    {
        QueueState.PROPOSED: frozenset({QueueState.APPROVED, QueueState.WITHDRAWN}),
        QueueState.APPROVED: frozenset(
            {QueueState.EXPORTED, QueueState.RUNNING, QueueState.DONE, QueueState.FAILED, QueueState.WITHDRAWN}
        ),
        QueueState.EXPORTED: frozenset({QueueState.RUNNING, QueueState.DONE, QueueState.FAILED, QueueState.WITHDRAWN}),
        QueueState.RUNNING: frozenset({QueueState.DONE, QueueState.FAILED, QueueState.WITHDRAWN}),
        QueueState.DONE: frozenset(),
        QueueState.FAILED: frozenset(),
        QueueState.WITHDRAWN: frozenset(),
    }
)

UNFINISHED = tuple(state for state in QueueState if not state.is_finished)

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
