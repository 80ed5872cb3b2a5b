"""The cheaper fidelity that a round's members stand on: a model of other labels, or one that is there."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from campaigns.exceptions import CampaignError
from campaigns.predictors import is_model
from campaigns.training_set import training_labels

if TYPE_CHECKING:
    from pathlib import Path

    from campaigns.round import RoundWork
    from engine.learning.ensemble import Ensemble


def lower_fidelity(work: RoundWork) -> Ensemble | None:
    """Load or train the model that ``[model] prior`` names, or of the cheaper fidelity that may be queued.

    Labels of a fidelity train one as soon as there are enough; it is kept under the hash of its labels, so that rounds
    with the same labels share it. A fidelity that is too dear to be queued may have none, and is left out then.

    Raises
    ------
    CampaignError
        If the model stands on another backbone, or the fidelity of ``prior`` has too few labels.
    """
    prior, directory = work.settings.prior, work.campaign.directory
    if not prior:
        return None
    if not is_model(directory, prior):
        return _of_fidelity(work, prior)
    ensemble = _load(directory / prior)
    if ensemble.backbone.sha256 != work.featuriser.backbone.sha256:
        named = work.settings.model.backbone
        starts = " ".join(f"--from {name}" for name in ([named] if isinstance(named, str) else named))
        raise CampaignError(
            f"[model] prior = {prior!r} stands on backbone {ensemble.backbone.name}, the campaign on "
            f"{work.featuriser.backbone.name}; train it again with {starts}"
        )
    return ensemble


def _of_fidelity(work: RoundWork, fidelity: str) -> Ensemble | None:
    from engine.learning.ensemble import EnsembleSettings, labels_hash, minimum_labels, train_ensemble
    from engine.learning.storage import RECORD, save_ensemble

    section, members = work.settings.campaign, work.settings.model.members
    labels = training_labels(
        work.store, section.model_copy(update={"fidelity": fidelity}), work.manifest["labels_up_to"]
    )
    hashes = dict(zip(work.pool.ids, work.pool.hashes, strict=True))
    ids = sorted(id_ for id_ in labels if id_ in hashes)
    if len(ids) < minimum_labels(members):
        if not work.settings.model.prior:
            return None
        raise CampaignError(
            f"[model] prior = {fidelity!r} is no folder that `train` wrote, and {section.property} has {len(ids)} "
            f"labels of that fidelity where {minimum_labels(members)} are needed; import some, or leave prior empty"
        )
    keys = [hashes[id_] for id_ in ids]
    values = work.scale.learned([labels[id_].value for id_ in ids])
    settings = EnsembleSettings(members=members, seed=section.seed)
    name = f"{work.featuriser.backbone.sha256[:8]}-{members}-{section.seed}-{labels_hash(keys, values)[:24]}"
    folder = work.campaign.artifacts / "models" / "lower-fidelity" / name
    if not (folder / RECORD).is_file():
        work.say(f"{len(ids)} labels of fidelity {fidelity} train the estimate first")
        ensemble = train_ensemble(
            work.featuriser, keys, values, settings, property=section.property, scale=section.learned_scale
        )
        save_ensemble(ensemble, folder, work.campaign.artifacts / "backbones")
    return _load(folder)


def _load(folder: Path) -> Ensemble:
    """Read a model once for all rounds, which then share what the covariance of its labels takes to work out."""
    from engine.learning.storage import RECORD

    return _loaded(folder, (folder / RECORD).read_bytes())


@lru_cache(maxsize=1)
def _loaded(folder: Path, record: bytes) -> Ensemble:
    """Read a model; ``record`` vouches for every file of it."""
    from engine.learning.storage import load_ensemble

    return load_ensemble(folder)
