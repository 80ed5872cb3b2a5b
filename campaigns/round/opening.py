"""Start of a round: everything that determines its outcome is checked, and fixed in its manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from campaigns.budget import core_hours_left
from campaigns.configuration import Configuration, round_settings
from campaigns.exceptions import CampaignError, NoCandidatesError
from campaigns.files import replaced
from campaigns.goals import Scale
from campaigns.models.lower_fidelity import check_lower_fidelity
from campaigns.models.predictors import checked_models, is_model
from campaigns.pool.costs import Costs, is_priced_by_dft, pricing_settings
from campaigns.pool.labels import Moment, training_labels
from campaigns.pool.pool import Pool, queued_ids
from campaigns.round.cheaper_fidelity import queued_cheaper
from campaigns.round.context import CANDIDATES, file_sha256, round_folder
from campaigns.round.manifest import RoundManifest
from campaigns.version import code_version
from engine.learning.ensemble.settings import AUTO, FROZEN, MIN_ENSEMBLE_LABELS
from engine.learning.networks.finetune import check_start

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from campaigns.workspace import Workspace
    from db.records import Json, LabelRecord, RoundRecord
    from db.store import Store


def open_round(workspace: Workspace, batch: int) -> RoundRecord:
    """Start the next round: fix in its manifest everything that determines its outcome.

    Impossible settings are refused here, because a round that has begun keeps its settings.
    """
    settings = workspace.configuration
    store = workspace.store
    backbone = workspace.backbone(settings.model.backbone)
    pool = Pool.of(store, backbone.elements)
    if settings.model.strategy not in (FROZEN, AUTO):
        check_start(backbone, settings.model.strategy)
    labels = training_labels(store, settings)
    Scale(settings.campaign.learned_scale).learned([label.value for label in labels.values()])
    pending, spent = queued_ids(store, settings.campaign.fidelity)
    known = [objective.property for objective in settings.objectives if not objective.model]
    candidates = pool.candidates(store, settings.constraints, {*labels, *pending, *spent}, known)
    open_rows = len(candidates)
    if is_priced_by_dft(settings):
        candidates = _small_enough(workspace, pool, candidates)
    _check_budget(workspace, labels)
    _check_objectives(settings, pool, store, labels, candidates)
    _check_first_batch(workspace)
    check_lower_fidelity(workspace, backbone, pool)
    moment = Moment.now(store)
    manifest = RoundManifest(
        settings=_settings(settings),
        materials=len(pool) + len(pool.unknown),
        pool_sha256=pool.sha256,
        candidates=len(candidates),
        candidates_sha256=_keep_candidates(workspace, candidates),
        labels=len(labels),
        labels_up_to=moment.labels,
        withdrawals_up_to=moment.withdrawals,
        failures_up_to=max((f.id or 0 for f in store.failures(settings.campaign.property)), default=0),
        voidings_up_to=store.last_voiding(),
        models=checked_models(workspace.directory, settings),
        core_hours_left=core_hours_left(workspace),
        dft=pricing_settings(settings),
        too_large=open_rows - len(candidates),
        backbone_sha256=backbone.sha256,
        backbones=[part.sha256 for part in backbone.parts],
        code_version=code_version(),
        batch=batch,
        pending=sorted(pending),
        hit=_hit_threshold(workspace, labels),
        **queued_cheaper(workspace, labels),
    )
    return store.start_round(manifest.to_json())


def changed_settings(settings: Configuration, record: RoundRecord) -> list[str]:
    """Names of the settings (``[model] head``) that changed since a round began."""
    began, now = _settings(round_settings(record)), _settings(settings)  # read again: missing keys have their defaults
    changed = [
        f"[{section}] {key}"
        for section, keys in now.items()
        if isinstance(keys, dict)
        for key in dict.fromkeys([*keys, *began[section]])
        if began[section].get(key) != keys.get(key)
    ]
    return changed + ["[[objectives]]"] * (began["objectives"] != now["objectives"])


def _small_enough(workspace: Workspace, pool: Pool, candidates: NDArray[np.int64]) -> NDArray[np.int64]:
    """Candidates without those that an earlier round has counted and found too large for ``[dft]``.

    Raises
    ------
    NoCandidatesError
        If none is left.
    """
    costs = Costs.now(workspace, lambda text: None)
    too_large = np.array(costs.known_too_large(pool.rows.take(candidates).texts("content_hash")), dtype=bool)
    if too_large.all():
        raise NoCandidatesError(
            f"all {len(candidates)} materials that can be queued are too large for {costs.limits}; raise a limit, "
            "lower [dft] min_length, or ingest more materials"
        )
    return candidates[~too_large]


def _check_budget(workspace: Workspace, labels: Mapping[str, LabelRecord]) -> None:
    """Refuse a budget of core-hours where no calculation has a price, and none will get one by itself."""
    settings = workspace.configuration
    own, budget = settings.campaign.fidelity, settings.campaign.budget_core_hours
    # calculations on this machine bring their cost
    is_priced = is_priced_by_dft(settings) or settings.labeler.kind in ("agl", "phonons")
    if budget is None or is_priced or own in settings.costs or any(label.cost for label in labels.values()):
        return
    raise CampaignError(
        f"[campaign] budget_core_hours = {budget:,.6g} cannot limit what is queued, no cost of {own} is known; give "
        f"[costs] {own} = CORE_HOURS, or import labels with their cost"
    )


def _check_objectives(
    settings: Configuration, pool: Pool, store: Store, labels: Mapping[str, LabelRecord], candidates: NDArray[np.int64]
) -> None:
    """Refuse known objectives without a logarithm where it is needed, or that no labelled material has."""
    sections = [section for section in settings.objectives if not section.model]
    known = pool.known(store, [section.property for section in sections], "[[objectives]]")
    labelled = pool.rows_of(labels)
    for section in sections:
        values = known[section.property]
        Scale(section.learned_scale).learned(values[candidates])
        if len(labelled) and np.isnan(values[labelled]).all():
            raise CampaignError(
                f"[[objectives]]: none of the {len(labelled)} labelled materials has {section.property}, and what "
                "improves on them cannot be determined; add it to some of them, or give a model of it"
            )


def _check_first_batch(workspace: Workspace) -> None:
    """Refuse an estimate for a first batch that is neither a model nor a fidelity of labels."""
    section, acquisition = workspace.configuration.campaign, workspace.configuration.acquisition
    if acquisition.first_batch != "estimate" or is_model(workspace.directory, acquisition.first_batch_estimate):
        return
    if not workspace.store.labels(section.property, acquisition.first_batch_estimate):
        known = workspace.store.fidelities(section.property)
        raise CampaignError(
            f"[acquisition] first_batch_estimate = {acquisition.first_batch_estimate!r} is neither a folder that "
            f"`train` wrote nor a fidelity of labels of {section.property} (there are: {', '.join(known) or 'none'}); "
            "import some, or change it"
        )


def _settings(settings: Configuration) -> Json:
    """All settings that determine a round's outcome; not where a potential runs, whose version the backbone has."""
    left_out = dict.fromkeys(("dft", "execution", "labeler", "stopping", "store"), True)
    return settings.model_dump(mode="json", exclude={**left_out, "model": {"potential_python"}})


def _keep_candidates(workspace: Workspace, candidates: NDArray[np.int64]) -> str:
    """Write the rows that the next round may queue; returns the SHA-256 of the file."""
    path = round_folder(workspace, len(workspace.store.rounds()) + 1) / CANDIDATES
    with replaced(path) as partial, partial.open("wb") as handle:
        np.save(handle, candidates)
    return file_sha256(path)


def _hit_threshold(workspace: Workspace, labels: dict[str, LabelRecord]) -> float | None:
    """Threshold of a hit: as configured, or the best tenth of the labels of the first model."""
    section = workspace.configuration.campaign
    if section.hit is not None:
        return section.hit
    if section.window is not None:
        return section.window[0]
    earlier = (RoundManifest.of(record).hit for record in workspace.store.rounds())
    if (first := next((hit for hit in earlier if hit is not None), None)) is not None:
        return first
    if len(labels) < MIN_ENSEMBLE_LABELS:
        return None
    return section.sought.best_tenth([label.value for label in labels.values()])
