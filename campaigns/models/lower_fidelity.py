"""The lower fidelity that a round's members are learned on top of: a model of its labels, or one that is there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from campaigns.exceptions import CampaignError
from campaigns.models.predictors import check_unchanged, folder_of, is_model
from campaigns.pool.labels import training_labels
from campaigns.property_families import is_same_property
from engine.learning.ensemble.records import SEEN_DIGITS
from engine.learning.ensemble.settings import minimum_labels

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from campaigns.configuration import Configuration
    from campaigns.pool.pool import Pool
    from campaigns.round.context import RoundContext
    from campaigns.workspace import Workspace
    from db.records import LabelRecord
    from engine.learning.backbones.stack import AnyBackbone
    from engine.learning.ensemble.ensemble import Ensemble


_OFFSET = 0.1
"""Decades (a factor of 1.26) from which a difference between labels and model is worth a line."""
_SUSPICIOUS = 0.7
"""Decades (a factor of 5) from which a unit or a temperature may be wrong."""


def lower_fidelity(context: RoundContext) -> Ensemble | None:
    """Load or train the model that ``[model] lower_fidelity`` names, or of the cheaper fidelity that may be queued.

    Labels of a fidelity train one as soon as there are enough; it is kept under the hash of its labels, so that rounds
    with the same labels share it. A fidelity that is too dear to be queued may have none, and is left out then. Of
    several that may be queued, each is learned on top of the one before.

    Raises
    ------
    CampaignError
        If the model stands on another backbone, or the fidelity of ``lower_fidelity`` has too few labels.
    """
    names, directory = context.settings.lower_fidelities, context.workspace.directory
    if len(names) == 1 and is_model(directory, names[0]):
        return _without_own_labels(context, _given_model(context))
    lower = None
    for name in names:
        lower = _of_fidelity(context, name, lower) or lower
    return lower


def learned_fidelities(context: RoundContext) -> list[str]:
    """Fidelities that may be queued and have labels enough for :func:`lower_fidelity`, from the cheapest."""
    needed = minimum_labels(context.settings.model.members)
    return [name for name in context.settings.acquisition.fidelities if len(_known(context, name)) >= needed]


def _given_model(context: RoundContext) -> Ensemble:
    """The trained model that ``[model] lower_fidelity`` names, as the round began with it."""
    named = context.settings.model.lower_fidelity
    ensemble = _load(folder_of(context.workspace.directory, named))
    check_unchanged(context, named, ensemble)
    if ensemble.backbone.sha256 != context.featuriser.backbone.sha256:
        stands_on = [part.name for part in ensemble.backbone.parts]
        raise _other_backbone(context.settings, stands_on, context.featuriser.backbone)
    return ensemble


def _without_own_labels(context: RoundContext, ensemble: Ensemble) -> Ensemble:
    """The model without the crystals that the campaign has labels of, which would agree with themselves."""
    if not is_same_property(ensemble.property, context.settings.campaign.property):
        return ensemble
    seen = set(ensemble.seen)
    labelled = context.hashes(context.pool.rows_of(context.labels))
    both = [key for key in labelled if key[:SEEN_DIGITS] in seen]
    if not both or not ensemble.members.kind.has_process:
        return ensemble
    context.say(
        f"{len(both)} of {len(labelled)} labelled crystals were learned by {context.settings.model.lower_fidelity}: "
        "their values there are left out"
    )
    return ensemble.without(both, context.featuriser.embeddings(both))


def model_of_property(context: RoundContext) -> Ensemble | None:
    """The model that ``[model] lower_fidelity`` names, where it predicts the campaign's own property.

    It may rank the pool before there are labels enough to learn on top of it. A conductivity at another temperature is
    another property.
    """
    if not is_model(context.workspace.directory, context.settings.model.lower_fidelity):
        return None
    ensemble = _given_model(context)
    return ensemble if is_of_own_property(context, ensemble) else None


def is_of_own_property(context: RoundContext, lower: Ensemble | None) -> bool:
    """Whether a lower fidelity is a given model of the campaign's own property, not of labels of a cheaper fidelity."""
    settings = context.settings
    given = is_model(context.workspace.directory, settings.model.lower_fidelity)
    return lower is not None and given and is_same_property(lower.property, settings.campaign.property)


def overlap_note(context: RoundContext, ensemble: Ensemble) -> str:
    """How many of the pool's crystals a model was trained on; empty if none.

    Their predictions repeat published values, so that finding them again shows nothing.
    """
    known = set(ensemble.seen)
    count = sum(key[:SEEN_DIGITS] in known for key in context.pool.hashes)
    if not count:
        return ""
    return (
        f"{context.settings.model.lower_fidelity} was trained on {count} of the {len(context.pool)} crystals of this "
        "pool, whose values are published"
    )


def offset_note(context: RoundContext, ensemble: Ensemble, hashes: Sequence[str], values: NDArray[np.float64]) -> str:
    """By which factor the campaign's labels lie off the model they stand on; empty where it is small.

    Members learn the factor (and a slope) with the labels, see :mod:`engine.learning.heads.multifidelity`.
    """
    lower = ensemble.lower_fidelity
    if lower is None or ensemble.scale != "log10" or not is_same_property(lower.property, ensemble.property):
        return ""
    difference = float(np.median(values - lower.predict(context.featuriser, hashes).mean.mean(axis=0)))
    if abs(difference) < _OFFSET:
        return ""
    return (
        f"the {len(values)} labels are {10**difference:.2g} times (median) what "
        f"{context.settings.model.lower_fidelity} predicts; the factor is learned and corrected"
        + ("; check their unit and temperature" if abs(difference) > _SUSPICIOUS else "")
    )


def check_lower_fidelity(workspace: Workspace, backbone: AnyBackbone, pool: Pool) -> None:
    """Refuse a ``[model] lower_fidelity`` that a round would fail on, before it begins and keeps its settings.

    Raises
    ------
    CampaignError
        As :func:`lower_fidelity`.
    """
    from engine.learning.ensemble.records import backbone_parts, read_record

    settings = workspace.configuration
    named = settings.model.lower_fidelity
    if named and is_model(workspace.directory, named):
        record = read_record(folder_of(workspace.directory, named))
        if record["backbone"]["sha256"] != backbone.sha256:
            raise _other_backbone(settings, [part["name"] for part in backbone_parts(record)], backbone)
    elif named:
        known = set(training_labels(workspace.store, settings, fidelity=named)).intersection(pool.ids)
        if len(known) < minimum_labels(settings.model.members):
            raise _too_few(settings, len(known))


def _other_backbone(settings: Configuration, stands_on: Sequence[str], backbone: AnyBackbone) -> CampaignError:
    named = settings.model.backbone
    starts = " ".join(f"--from {name}" for name in ([named] if isinstance(named, str) else named))
    return CampaignError(
        f"[model] lower_fidelity = {settings.model.lower_fidelity!r} stands on backbone {' + '.join(stands_on)}, the "
        f"campaign on {backbone.name}; set backbone = {json.dumps(stands_on)}, or train it again with {starts}"
    )


def _too_few(settings: Configuration, n_labels: int) -> CampaignError:
    return CampaignError(
        f"[model] lower_fidelity = {settings.model.lower_fidelity!r} is neither a shipped model nor a folder that "
        f"`train` wrote, and {settings.campaign.property} has {n_labels} labels of that fidelity where "
        f"{minimum_labels(settings.model.members)} are needed; import some, or leave lower_fidelity empty"
    )


def _known(context: RoundContext, fidelity: str) -> dict[str, LabelRecord]:
    """Labels of a fidelity that train in this round, of materials of the pool, by material id in order."""
    labels = training_labels(context.store, context.settings, context.manifest.moment, fidelity)
    return {id_: labels[id_] for id_ in sorted(labels.keys() & set(context.pool.ids))}


def _of_fidelity(context: RoundContext, fidelity: str, lower: Ensemble | None) -> Ensemble | None:
    from engine.learning.ensemble.records import RECORD
    from engine.learning.ensemble.settings import EnsembleSettings
    from engine.learning.ensemble.storage import save_ensemble
    from engine.learning.ensemble.training import Labels, labels_hash, train_ensemble

    section, members = context.settings.campaign, context.settings.model.members
    labels = _known(context, fidelity)
    if len(labels) < minimum_labels(members):
        if not context.settings.model.lower_fidelity:
            return None
        raise _too_few(context.settings, len(labels))
    hashes = dict(zip(context.pool.ids, context.pool.hashes, strict=True))
    keys = [hashes[id_] for id_ in labels]
    values = context.scale.learned([label.value for label in labels.values()])
    settings = EnsembleSettings(members=members, seed=section.seed)
    name = f"{context.featuriser.backbone.sha256[:8]}-{members}-{section.seed}-{labels_hash(keys, values)[:24]}"
    name += "" if lower is None else f"-{lower.data_hash[:8]}"
    folder = context.workspace.artifacts / "models" / "lower-fidelity" / name
    if not (folder / RECORD).is_file():
        context.say(f"{len(labels)} labels of fidelity {fidelity} train the estimate first")
        known = Labels(keys, values, section.property, section.learned_scale)
        ensemble = train_ensemble(context.featuriser, known, settings, lower_fidelity=lower)
        save_ensemble(ensemble, folder, context.workspace.artifacts / "backbones")
    return _load(folder)


def _load(folder: Path) -> Ensemble:
    """Read a model once for all rounds, which then share what the covariance of its labels takes to work out."""
    from engine.learning.ensemble.records import RECORD

    return _loaded(folder, (folder / RECORD).read_bytes())


@lru_cache(maxsize=1)
def _loaded(folder: Path, record: bytes) -> Ensemble:
    """Read a model; ``record`` vouches for every file of it."""
    from engine.learning.ensemble.storage import load_ensemble

    return load_ensemble(folder)
