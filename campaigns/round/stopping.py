"""Whether a campaign should stop, from its store and its latest model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from campaigns.budget import asked, core_hours
from campaigns.configuration import round_settings
from campaigns.exceptions import CampaignError
from campaigns.pool.columns import BLOCK_ROWS
from campaigns.pool.labels import best_value, training_labels
from campaigns.queue import Failed
from campaigns.round.manifest import RoundFigures, RoundManifest
from db.states import QueueState
from engine.metrics.stopping import (
    Outlook,
    StoppingAdvice,
    advise,
    best_found_probability,
    contenders,
    idle_rounds,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from campaigns.workspace import Workspace
    from db.records import LabelRecord, RoundRecord
    from engine.acquire.objectives import Objective
    from engine.posteriors.posterior import PoolPosterior


def stopping_advice(workspace: Workspace) -> StoppingAdvice:
    """Evaluate every criterion from the store and the latest model's stored predictions; nothing is trained."""
    return advise(outlook(workspace), workspace.configuration.stopping_rule)


def outlook(workspace: Workspace) -> Outlook:
    """Collect the figures for stopping: labels, core-hours, hits left, whether the best is found, idle rounds."""
    store, section = workspace.store, workspace.configuration.campaign
    labels = training_labels(store, workspace.configuration)
    scored = next((r for r in reversed(store.rounds()) if r.predictions is not None), None)
    return Outlook(
        labels=asked(workspace),
        budget_labels=section.budget,
        core_hours=core_hours(workspace),
        undiscovered_hits=None if scored is None else undiscovered_hits(workspace, scored, labels),
        best_found=None if scored is None else RoundFigures.of(scored).best_found,
        idle_rounds=idle_rounds(_best_utilities(workspace, labels), "max"),
    )


def undiscovered_hits(workspace: Workspace, record: RoundRecord, labels: Mapping[str, LabelRecord]) -> float | None:
    """Expected hits: the sum of a round's predicted probabilities over materials without a label or a failure.

    A material whose calculation failed by the machine may still be one. None where the threshold of a hit is not known.
    """
    hit = RoundManifest.of(record).hit
    if hit is None or record.predictions is None:
        return None
    from pyarrow import parquet

    path = workspace.directory / record.predictions.path
    if not path.is_file():
        raise CampaignError(
            f"{path} is missing, the predictions of round {record.number}; copy artifacts/ with the campaign"
        )
    goal = round_settings(record).campaign.sought
    failures, fidelity = Failed.of(workspace), round_settings(record).campaign.fidelity
    ended = workspace.store.queue([QueueState.FAILED, QueueState.WITHDRAWN])
    closed = {*labels, *(e.material_id for e in ended if e.fidelity == fidelity and not failures.is_by_machine(e))}
    expected = 0.0
    with parquet.ParquetFile(path) as table:
        for batch in table.iter_batches(BLOCK_ROWS, columns=["id", "learned_mean", "learned_std"]):
            open_rows = np.array([id_ not in closed for id_ in batch.column("id").to_pylist()], dtype=bool)
            mean, std = (batch.column(name).to_numpy()[open_rows] for name in ("learned_mean", "learned_std"))
            expected += float(goal.hit_probability(mean, std, hit).sum())
    return expected


def best_found(
    posterior: PoolPosterior, rows: NDArray[np.int64], best: float | None, objective: Objective
) -> float | None:
    """Probability that no row is better than the best label (learned units), from joint draws of those that could.

    ``rows`` are the pool's rows without a label. None without a label.
    """
    from engine.acquire.reasons import probability_to_improve

    if best is None:
        return None
    mean, std = posterior.mean_std(rows)
    chosen = rows[contenders(probability_to_improve(mean, std, best=best, goal=objective))]
    utility = float(objective.utility(np.asarray(best, dtype=np.float64)))
    return best_found_probability(objective.utility(posterior.draws(chosen)), utility, "max")


def _best_utilities(workspace: Workspace, labels: Mapping[str, LabelRecord]) -> list[float | None]:
    """Utility of the best label before the first round, and after each round that has brought any."""
    goal = workspace.configuration.campaign.sought
    queried: dict[int, set[str]] = {}
    for entry in workspace.store.queue([QueueState.DONE]):
        if entry.material_id in labels and entry.fidelity == labels[entry.material_id].fidelity:
            queried.setdefault(entry.round or 0, set()).add(entry.material_id)
    later = set().union(*queried.values())
    known = {id_: label for id_, label in labels.items() if id_ not in later}
    bests = [best_value(known, goal)]
    for number in sorted(queried):
        known |= {id_: labels[id_] for id_ in queried[number]}
        bests.append(best_value(known, goal))
    return [None if best is None else float(goal.utility(best)) for best in bests]
