"""Models of the studies: trained stages, Gaussian processes, trees, and the product's own ensembles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

import numpy as np

from campaigns.studies.data import Say, StudySource, values_of
from campaigns.studies.results import digest
from engine.materials.crystal import Material

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.learning.backbones.backbone import Backbone
    from engine.learning.backbones.column_statistics import ColumnStatistics
    from engine.learning.backbones.stack import AnyBackbone
    from engine.learning.ensemble.ensemble import Ensemble
    from engine.learning.heads.gp import GaussianProcessHead
    from engine.learning.pretraining.stage import Keep, Stage
    from engine.learning.pretraining.tasks import DataSet

TREES, TREES_OF_MANY_ROWS = 300, 100
FEWER_TREES_BEYOND = 1000
"""Rows beyond which more trees change nothing but the time."""


class ScheduleOptions(TypedDict, total=False):
    """What a small stage may change in its schedule."""

    learning_rate: float
    batch_size: int


def small_stage(
    source: StudySource,
    *,
    epochs: int,
    seed: int,
    name: str = "",
    keep: Keep = "body",
    strategy: str = "full",
    schedule: ScheduleOptions | None = None,
) -> Stage:
    """Stage that learns one property on all rows it is given, an inner split of them choosing the epoch."""
    from engine.learning.networks.schedule import Schedule
    from engine.learning.pretraining.stage import Stage
    from engine.learning.pretraining.tasks import PropertyTask

    return Stage(
        name=name,
        data="rows",
        tasks=(PropertyTask(source.property, source.scale),),
        strategy=strategy,
        keep=keep,
        schedule=replace(Schedule(epochs=epochs, batch_size=16, validation_fraction=0.15), **(schedule or {})),
        held_out_fraction=0.0,
        min_labels=2,
        seed=seed,
    )


def pretrained(work: Path, stage: Stage, start: Backbone, data: DataSet, say: Say) -> Backbone:
    """Train one stage, or go on with it, or load it, from its folder under ``work``."""
    from engine.learning.pretraining.stage import Recipe
    from engine.learning.pretraining.stages import run_stages
    from engine.learning.pretraining.tasks import materials_hash

    known = digest(asdict(stage), materials_hash(data.materials), start.sha256)
    (made,) = run_stages(
        Recipe(stage.name, (stage,)), {stage.data: data}, work / f"{stage.name}-{known[:16]}", start, say
    )
    return made


def fine_tuned(
    stage: Stage, start: Backbone, training: Sequence[Material], test: Sequence[Material]
) -> NDArray[np.float64]:
    """Predictions for ``test`` in learned units after training ``stage`` on ``training``."""
    from engine.learning.pretraining.tasks import DataSet
    from engine.learning.pretraining.training import train_stage

    return predict(train_stage(stage.name, stage, start, DataSet(training)), test)


def predict(backbone: Backbone, materials: Sequence[Material]) -> NDArray[np.float64]:
    """Predictions (n) of a backbone's only head, in learned units."""
    import torch

    (scaling,) = backbone.card["scaling"].values()
    trunk = backbone.embed_crystals(m.crystal for m in materials)[:, backbone.groups["trunk"]]
    with torch.no_grad():
        head = backbone.network.heads(torch.from_numpy(trunk))[:, 0].double().numpy()
    return head * scaling["std"] + scaling["mean"]


@dataclass(frozen=True, eq=False)
class Features:
    """Features (n x d) of n crystals in named groups of columns."""

    values: NDArray[np.float32]
    groups: Mapping[str, slice] = field(default_factory=dict)
    column_statistics: ColumnStatistics | None = None
    """Yardstick of the columns, where the backbone has one."""

    @classmethod
    def of(cls, backbone: Backbone, materials: Sequence[Material]) -> Features:
        """Embeddings of a backbone: statistics of the crystal, readout, trunk."""
        return cls(backbone.embed_crystals(m.crystal for m in materials), backbone.groups, backbone.column_statistics)

    @property
    def statistics(self) -> Features:
        """Only what is known without learning."""
        stop = self.groups["readout"].start
        column_statistics = None if self.column_statistics is None else self.column_statistics.first(stop)
        return Features(
            self.values[:, :stop], {n: c for n, c in self.groups.items() if c.stop <= stop}, column_statistics
        )

    def joined(self, name: str, column: NDArray[np.float64]) -> Features:
        """Add one column (n) as a group of its own."""
        from engine.learning.backbones.column_statistics import ColumnStatistics

        width = self.values.shape[1]
        values = np.column_stack([self.values, column.astype(np.float32)])
        column_statistics = (
            None
            if self.column_statistics is None
            else self.column_statistics.joined(ColumnStatistics.unknown(1), first=0)
        )
        return Features(values, {**self.groups, name: slice(width, width + 1)}, column_statistics)

    def __getitem__(self, rows: NDArray[np.int64]) -> Features:
        """Those rows."""
        return Features(self.values[rows], self.groups, self.column_statistics)


def gaussian_process(
    training: Features,
    values: NDArray[np.float64],
    test: Features,
    seed: int,
    lines: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
) -> tuple[NDArray[np.float64], float]:
    """Predictions for ``test``, and the mean leave-one-out error on ``training``.

    With ``lines`` (an estimate for training and for test rows) the process learns what a straight line through it
    leaves: the autoregressive model of Kennedy and O'Hagan, Biometrika 87, 1 (2000).
    """
    from engine.learning.heads.gp import GaussianProcessHead

    base, base_test = (np.zeros(len(values)), 0.0) if lines is None else straight_line(*lines, values)
    head = GaussianProcessHead.fit(training.values, values - base, training.groups, seed, training.column_statistics)
    return head.predict(test.values)[0] + base_test, float(np.abs(left_out_errors(head)).mean())


class Ensembles:
    """The product's own ensembles with its default settings, their embeddings kept under ``folder``."""

    def __init__(self, backbone: AnyBackbone, folder: Path):
        from engine.learning.backbones.stack import make_featuriser

        self._featuriser = make_featuriser(backbone, folder, keep_graphs=False)

    def trained(
        self, materials: Sequence[Material], source: StudySource, seed: int, lower_fidelity: Ensemble | None = None
    ) -> Ensemble:
        """Train on labelled crystals, perhaps on top of a cheaper fidelity."""
        from engine.learning.ensemble.settings import EnsembleSettings
        from engine.learning.ensemble.training import Labels, train_ensemble

        return train_ensemble(
            self._featuriser,
            Labels(self._added(materials), values_of(materials, source), source.property, source.scale),
            EnsembleSettings(seed=seed),
            lower_fidelity=lower_fidelity,
        )

    def predict(self, ensemble: Ensemble, materials: Sequence[Material]) -> NDArray[np.float64]:
        """Predictions (n) in learned units."""
        return ensemble.predict(self._featuriser, self._added(materials)).total(1.0)[0]

    def distribution(
        self, ensemble: Ensemble, materials: Sequence[Material]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Predictions and their calibrated standard deviations (n each) in learned units."""
        return ensemble.predict(self._featuriser, self._added(materials)).total(ensemble.calibration)

    def embeddings(self, materials: Sequence[Material]) -> NDArray[np.float32]:
        """Embeddings (n x d) that the ensembles read."""
        return self._featuriser.embeddings(self._added(materials))

    def _added(self, materials: Sequence[Material]) -> list[str]:
        self._featuriser.add({m.content_hash: m.crystal for m in materials})
        return [m.content_hash for m in materials]


def left_out_errors(head: GaussianProcessHead) -> NDArray[np.float64]:
    """Error (n) of each training row given the others (Rasmussen and Williams 2006, eq. 5.12)."""
    precision = np.linalg.inv((head.cholesky @ head.cholesky.T).numpy())
    return head.weights.numpy() / precision.diagonal() * float(head.tensors.std)


def straight_line(
    known: NDArray[np.float64], new: NDArray[np.float64], values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values at ``known`` and ``new`` of the straight line fitted to ``values`` at ``known`` (least squares)."""
    line = np.polynomial.Polynomial.fit(known, values, 1)
    return line(known), line(new)


def trees(
    kind: Literal["random_forest", "extra_trees"],
    training: Features,
    values: NDArray[np.float64],
    test: Features,
    seed: int,
) -> NDArray[np.float64]:
    """Predictions of 300 trees, 100 beyond 1,000 rows, half of the columns tried at each node."""
    from sklearn.ensemble import ExtraTreesRegressor, RandomForestRegressor

    forest = RandomForestRegressor if kind == "random_forest" else ExtraTreesRegressor
    n_trees = TREES if len(values) <= FEWER_TREES_BEYOND else TREES_OF_MANY_ROWS
    fitted = forest(n_trees, max_features=0.5, random_state=seed, n_jobs=1).fit(training.values, values)
    return np.asarray(fitted.predict(test.values))
