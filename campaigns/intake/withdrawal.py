"""Withdrawal of labels: they stay in the store with who, when and why; materials that become candidates again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from campaigns.exceptions import CampaignError
from campaigns.pool.labels import training_labels
from campaigns.queue import author

if TYPE_CHECKING:
    from campaigns.workspace import Workspace
    from db.records import LabelRecord
    from db.store import Store


def withdraw_labels(
    workspace: Workspace, ids: Sequence[int | str], reason: str, property: str | None, fidelity: str | None
) -> list[LabelRecord]:
    """Withdraw labels; arguments and errors as of :meth:`Campaign.withdraw_labels`."""
    store, section = workspace.store, workspace.configuration.campaign
    with workspace.locked(), store.transaction():
        if property is None and fidelity is None:
            chosen = [_label_id(id_) for id_ in ids]
        else:
            wanted = property or section.property, fidelity or section.fidelity
            found = store.labels(*wanted, material_ids=[str(id_) for id_ in ids])
            owners = store.resolve_all([str(id_) for id_ in ids])
            absent = [id_ for id_, owner in owners.items() if owner not in {label.material_id for label in found}]
            if absent:
                raise CampaignError(f"{', '.join(absent)}: no current label of {wanted[0]} ({wanted[1]})")
            chosen = [label.id or 0 for label in found]
        return store.withdraw_labels(chosen, author(), reason)


def candidates_again(workspace: Workspace, labels: Sequence[LabelRecord]) -> list[str]:
    """Which of these labels' materials lack a label of the campaign's property and fidelity, and may be queued."""
    from campaigns.pool.pool import queued_ids

    section = workspace.configuration.campaign
    own = [x for x in labels if (x.property, x.fidelity) == (section.property, section.fidelity)]
    ids = dict.fromkeys(label.material_id for label in own)
    known = training_labels(workspace.store, workspace.configuration)
    pending, spent = queued_ids(workspace.store, section.fidelity)
    return [id_ for id_ in ids if id_ not in {*known, *pending, *spent}]


def withdrawn_before(store: Store, ids: Collection[int]) -> list[LabelRecord]:
    """Which of these labels (by id) are withdrawn."""
    known = set(ids)
    return [label for label in store.withdrawn_labels() if label.id in known]


def _label_id(given: int | str) -> int:
    try:
        return int(given)
    except ValueError as error:
        raise CampaignError(
            f"{given!r} is not the id of a label; `kappascout label list DIR` shows them, or name materials and give "
            "--property or --fidelity"
        ) from error
