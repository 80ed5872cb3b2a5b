"""Other models beside the campaign's own: of further objectives, of constraints, of a first batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from campaigns.exceptions import CampaignError
from campaigns.goals import Scale
from campaigns.output import Count
from campaigns.pool.pool import embed_pool

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from campaigns.configuration import Configuration
    from campaigns.round.context import RoundContext
    from engine.learning.ensemble.ensemble import Ensemble
    from engine.posteriors.posterior import PoolPosterior


@dataclass(frozen=True, eq=False)
class Predictor:
    """Another model's posterior over a round's pool, on the model's own scale."""

    posterior: PoolPosterior
    scale: Scale


@dataclass(frozen=True, eq=False)
class FewerDraws:
    """A posterior with its first ``n_draws`` joint draws, so that several have as many."""

    whole: PoolPosterior
    n_draws: int

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes of the whole posterior."""
        return self.whole.notes

    @property
    def n_rows(self) -> int:
        """Rows in the pool."""
        return self.whole.n_rows

    def mean_std(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of these rows."""
        return self.whole.mean_std(rows)

    def draws(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """D x len(rows) joint draws."""
        return self.whole.draws(rows)[: self.n_draws]


def checked_models(directory: Path, settings: Configuration) -> dict[str, str]:
    """Hash of the labels of each model that ``campaign.toml`` names, all of them there and of the right property.

    Raises
    ------
    CampaignError
        If one predicts another property than it is asked for.
    """
    from engine.learning.ensemble.records import read_record

    found = {}
    for where, property_, folder in _named(directory, settings):
        record = read_record(folder_of(directory, folder))
        if property_ is not None and record["property"] != property_:
            raise CampaignError(
                f"{where}: the model in {directory / folder} predicts {record['property']}, not {property_}; name "
                "another model, or the property that it predicts"
            )
        found[folder] = str(record["data_hash"])
    return found


def is_model(directory: Path, name: str) -> bool:
    """Whether this names a trained model: a folder relative to the campaign, or a shipped one."""
    from engine.learning.ensemble.records import model_folder

    return model_folder(name, directory) is not None


def folder_of(directory: Path, name: str) -> Path:
    """Folder of a model that ``campaign.toml`` names; one that is not there is named as it is."""
    from engine.learning.ensemble.records import model_folder

    return model_folder(name, directory) or directory / name


def load_predictor(context: RoundContext, folder: str, n_draws: int, seed: int) -> Predictor:
    """Load a model that :func:`checked_models` has seen, and embed the pool for it."""
    from engine.learning.backbones.stack import make_featuriser
    from engine.learning.ensemble.storage import load_ensemble

    workspace = context.workspace
    ensemble = load_ensemble(folder_of(workspace.directory, folder))
    check_unchanged(context, folder, ensemble)
    featuriser = make_featuriser(
        ensemble.backbone,
        workspace.features,
        keep_graphs=ensemble.settings.networks,
        precision=context.settings.model.embeddings,
    )
    for done in embed_pool(context.store, featuriser, context.pool, workspace.configuration.execution.settings()):
        context.say(Count(f"{done} of {len(context.pool)} crystals embedded for {folder}"))
    return Predictor(ensemble.posterior(featuriser, context.pool.hashes, n_draws, seed), Scale(ensemble.scale))


def check_unchanged(context: RoundContext, name: str, ensemble: Ensemble) -> None:
    """Refuse a model that ``campaign.toml`` names, where it is not the one that the round began with.

    Raises
    ------
    CampaignError
        If its labels are others.
    """
    if ensemble.data_hash != context.manifest.models.get(name):
        raise CampaignError(
            f"the model {name} is not the one that round {context.record.number} began with; restore it from a copy"
        )


def _named(directory: Path, settings: Configuration) -> Iterator[tuple[str, str | None, str]]:
    """Where each model is named, the property it must predict (None: any), and its folder."""
    for objective in settings.objectives:
        if objective.model:
            yield "[[objectives]]", objective.property, objective.model
    for name, limits in settings.constraints.predicted.items():
        yield f"[constraints.predicted] {name}", name, limits.model
    if is_model(directory, settings.model.lower_fidelity):
        yield "[model] lower_fidelity", None, settings.model.lower_fidelity
    acquisition = settings.acquisition
    if acquisition.first_batch == "estimate" and is_model(directory, acquisition.first_batch_estimate):
        yield "[acquisition] first_batch_estimate", None, acquisition.first_batch_estimate
