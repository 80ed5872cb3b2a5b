"""Inputs of the steps of a round as its manifest fixes them, each read when it is first needed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from campaigns.configuration import Configuration, round_settings
from campaigns.exceptions import CampaignError
from campaigns.goals import Scale
from campaigns.pool.labels import training_labels
from campaigns.pool.pool import Pool
from campaigns.round.manifest import RoundFigures, RoundManifest
from engine.learning.backbones.stack import make_featuriser
from engine.learning.ensemble.settings import EnsembleSettings
from engine.learning.networks.finetune import fine_tuning
from engine.metrics.calibration import Z90

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from campaigns.workspace import Workspace
    from db.records import LabelRecord, RoundRecord
    from db.store import Store
    from engine.learning.backbones.stack import AnyBackbone, AnyFeaturiser
    from engine.learning.ensemble.ensemble import Ensemble

CANDIDATES = "candidates.npy"
"""File in a round's folder: rows of the pool that may be queued."""


class RoundProgress:
    """Progress of a round; each line begins with its number."""

    def __init__(self, number: int, say: Callable[[str], None]):
        self._number = number
        self._say = say
        self._noted: set[str] = set()

    def say(self, text: str) -> None:
        """Report a line; a :class:`Count` stays one."""
        self._say(type(text)(f"round {self._number}: {text}"))

    def once(self, notes: Iterable[str]) -> None:
        """Report those of the notes that were not reported before in this round."""
        new = set(notes) - self._noted
        for note in new:
            self.say(note)
        self._noted |= new


@dataclass(frozen=True, eq=False)
class RoundContext:
    """A round under way."""

    workspace: Workspace
    record: RoundRecord
    """Record of the round after the last finished step."""
    manifest: RoundManifest
    settings: Configuration
    """Settings that the round began with."""
    progress: RoundProgress

    @classmethod
    def of(cls, workspace: Workspace, record: RoundRecord, say: Callable[[str], None]) -> RoundContext:
        """Open a round that has begun.

        Raises
        ------
        CampaignError
            If the weights or the pool are not those that it began with.
        """
        progress = RoundProgress(record.number, say)
        context = cls(workspace, record, RoundManifest.of(record), round_settings(record), progress)
        context._check_inputs()
        return context

    def after(self, record: RoundRecord, ensemble: Ensemble | None = None) -> RoundContext:
        """The same round one step later; ``ensemble`` is a model that the step has just trained."""
        later = replace(self, record=record)
        # inputs that were read are kept: they are the same in all steps
        vars(later).update({name: value for name, value in vars(self).items() if name not in vars(later)})
        if ensemble is not None:
            vars(later)["ensemble"] = ensemble
        return later

    @property
    def store(self) -> Store:
        """The campaign's store."""
        return self.workspace.store

    @property
    def folder(self) -> Path:
        """Folder of the round's files."""
        return round_folder(self.workspace, self.record.number)

    @property
    def figures(self) -> RoundFigures:
        """Figures of earlier steps."""
        return RoundFigures.of(self.record)

    @property
    def half_width(self) -> float:
        """Half width of a 90 % interval, in predicted standard deviations."""
        half_width = self.figures.half_width
        return Z90 if half_width is None else half_width

    @property
    def scale(self) -> Scale:
        """Conversion between labels and learned units."""
        return Scale(self.settings.campaign.learned_scale)

    @cached_property
    def seed(self) -> int:
        """Random seed of the round."""
        return int(np.random.SeedSequence([self.settings.campaign.seed, self.record.number]).generate_state(1)[0])

    @cached_property
    def backbone(self) -> AnyBackbone:
        """Featuriser that embeds crystals."""
        return self.workspace.backbone(self.settings.model.backbone)

    @cached_property
    def pool(self) -> Pool:
        """Materials that were in the store when the round began."""
        return Pool.of(self.store, self.backbone.elements, self.manifest.materials)

    @cached_property
    def labels(self) -> dict[str, LabelRecord]:
        """Training labels, by material id."""
        return training_labels(self.store, self.settings, self.manifest.moment)

    @cached_property
    def ensemble_settings(self) -> EnsembleSettings:
        """Training settings of the round's model, with choices that depend on the number of labels resolved."""
        model = self.settings.model
        schedule = fine_tuning(model.epochs)
        settings = EnsembleSettings(model.strategy, model.head, model.members, self.seed, schedule, trees=model.trees)
        return settings.resolved(len(self.pool.rows_of(self.labels)), self.backbone)

    @cached_property
    def featuriser(self) -> AnyFeaturiser:
        """Embeddings on disk, and graphs where networks are trained."""
        return make_featuriser(
            self.backbone,
            self.workspace.features,
            keep_graphs=self.ensemble_settings.networks,
            precision=self.settings.model.embeddings,
        )

    @cached_property
    def ensemble(self) -> Ensemble:
        """The round's model."""
        from engine.learning.ensemble.storage import load_ensemble

        assert self.record.model_id is not None
        return load_ensemble(self.workspace.artifacts / "models" / self.record.model_id)

    @cached_property
    def candidates(self) -> NDArray[np.int64]:
        """Rows of the pool that may be queued, as they were when the round began.

        Raises
        ------
        CampaignError
            If their file is missing or changed.
        """
        path = self.folder / CANDIDATES
        if not path.is_file() or file_sha256(path) != self.manifest.candidates_sha256:
            raise CampaignError(
                f"{path} is missing or changed since round {self.record.number} began; restore it from a copy"
            )
        candidates: NDArray[np.int64] = np.load(path)
        if len(candidates) < self.manifest.batch:
            batch = self.manifest.batch
            self.say(f"only {len(candidates)} candidates are left for a batch of {batch}: all are queued")
        return candidates

    def say(self, text: str) -> None:
        """Report progress."""
        self.progress.say(text)

    def hashes(self, rows: NDArray[np.int64]) -> list[str]:
        """Content hashes of these rows of the pool."""
        return self.pool.rows.take(rows).texts("content_hash")

    def predicted(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of the whole pool in learned units, from the stored predictions (N each)."""
        assert self.record.predictions is not None
        return stored_predictions(self.workspace.directory / self.record.predictions.path)

    def _check_inputs(self) -> None:
        """Refuse to continue with other weights or another pool than the round began with."""
        number, model = self.record.number, self.settings.model
        if self.backbone.sha256 != self.manifest.backbone_sha256:
            raise CampaignError(
                f"the backbone {model.backbone!r} is not the one that round {number} began with (SHA-256 "
                f"{self.backbone.sha256[:12]}, was {self.manifest.backbone_sha256[:12]}); restore it"
            )
        if self.pool.sha256 != self.manifest.pool_sha256:
            raise CampaignError(
                f"the pool is not the one that round {number} began with; restore the store from a copy"
            )


def round_folder(workspace: Workspace, number: int) -> Path:
    """Folder of a round's files."""
    return workspace.artifacts / "rounds" / f"{number:03d}"


def stored_predictions(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation in learned units of a table of predictions (N each)."""
    from pyarrow import parquet

    table = parquet.read_table(path, columns=["learned_mean", "learned_std"])
    return table.column("learned_mean").to_numpy(), table.column("learned_std").to_numpy()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
