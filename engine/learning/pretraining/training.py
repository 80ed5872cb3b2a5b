"""How one stage is trained.

A stage learns one property or many: one body and trunk, one head per property, any subset of properties per crystal,
after Devi, Butler and Gopalakrishnan, npj Comput. Mater. 10, 300 (2024), with two changes: the loss is averaged over
the labels a property really has and then balanced between properties, so that a large set does not drown a small one;
and properties are standardised on training rows, ``log10`` first where they span decades.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.exceptions import BackboneError, DivergedError
from engine.graphs.crystal_graph import build_graph
from engine.learning.backbones.backbone import Backbone
from engine.learning.backbones.column_statistics import MAX_CRYSTALS, MIN_CRYSTALS, ColumnStatistics
from engine.learning.features.statistics import crystal_statistics
from engine.learning.networks import strategies
from engine.learning.networks.graph_data import GraphData
from engine.learning.networks.training import CHECKPOINT, Epoch, predict_network, train_network
from engine.learning.pretraining.distillation import load_teachers, teacher_columns
from engine.learning.pretraining.tasks import (
    DataSet,
    PropertyTask,
    check_labels,
    held_out_rows,
    learned_values,
    materials_hash,
    number,
    seen_prefixes,
)
from engine.learning.seeding import one_thread
from engine.metrics.accuracy import accuracy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.learning.backbones.network import GraphNetwork
    from engine.learning.networks.finetune import Loaded
    from engine.learning.networks.strategies import Plan
    from engine.learning.pretraining.stage import Stage
    from engine.materials.crystal import Material

LAST_GOOD = "last-good"
"""Folder in that of a stage, with the network as it was before a loss became NaN."""
Say = Callable[[str], None]


def train_stage(
    name: str, stage: Stage, start: Backbone, data: DataSet, say: Say | None = None, folder: Path | None = None
) -> Backbone:
    """Train one stage from ``start``; returns the new backbone.

    Materials with more than ``max_sites`` sites, an element unknown to the body or none of the properties are left out;
    their number is in the card. The state after every epoch is kept in ``folder``, if given.

    Raises
    ------
    TooFewLabelsError
        If a property has fewer labels than the stage asks for, or labels that are all equal.
    BackboneError
        If the start lacks tensors that the strategy needs.
    """
    say = say or (lambda _: None)
    tasks = stage.tasks_of(data)
    teachers = load_teachers(stage.teachers)
    prepared = _prepared(stage, start, data, tasks, teachers, folder, say)
    network, loaded = begin_network(stage, start, tasks, prepared)
    plan = stage.tuning.strategy.describe(network)
    say(f"stage {stage.name}, from {start.name}: {loaded}; {plan}")
    if folder is not None and (folder / CHECKPOINT).is_file():
        say(f"stage {stage.name} goes on from {folder / CHECKPOINT}")
    with one_thread():  # the sum of many threads depends on their number, and so would the weights
        history = _train(name, stage, network, prepared, say, folder)
        table = _held_out_table(network, prepared, tasks)
    made = _Made(stage, start, teachers, tasks, prepared, loaded, plan, history, table)
    return Backbone(name, network, made.card(len(data.materials)) | _column_statistics(network, prepared))


@dataclass(frozen=True, eq=False)
class StageData:
    """Crystals of a stage as its network reads them."""

    materials: Sequence[Material]
    graphs: GraphData
    held_out: NDArray[np.bool_]
    """Rows that are never trained on."""
    scaling: Scaling

    @property
    def training(self) -> NDArray[np.int64]:
        """Rows that are trained on."""
        return np.flatnonzero(~self.held_out)

    @property
    def n_teacher_columns(self) -> int:
        """Number of columns that the network learns from teachers."""
        return 0 if self.graphs.teacher_columns is None else self.graphs.teacher_columns.shape[1]


def _prepared(
    stage: Stage,
    start: Backbone,
    data: DataSet,
    tasks: Sequence[PropertyTask],
    teachers: Sequence[Backbone],
    folder: Path | None,
    say: Say,
) -> StageData:
    """Crystals that the stage can use, their graphs and targets, and what teachers say of them."""
    elements = frozenset.intersection(start.elements, *(teacher.elements for teacher in teachers))
    usable = [m for m in data.materials if _is_usable(m, elements, stage, tasks)]
    values = learned_values(usable, tasks)
    held_out = held_out_rows(usable, stage.held_out_fraction, stage.seed)
    check_labels(values, ~held_out, tasks, stage.min_labels)
    scaling = Scaling.of(values[~held_out])
    graphs = GraphData(
        graphs=[build_graph(m.crystal, start.cutoff) for m in usable],
        statistics=crystal_statistics(m.crystal for m in usable),
        targets=scaling.standardised(values),
        node_types=start.node_types,
        teacher_columns=teacher_columns(teachers, usable, ~held_out, folder, say),
    )
    return StageData(usable, graphs, held_out, scaling)


def _train(
    name: str, stage: Stage, network: GraphNetwork, data: StageData, say: Say, folder: Path | None
) -> list[Epoch]:
    """Train ``network`` in place; where its loss becomes NaN, its last good weights are kept in ``folder``."""
    from engine.learning.networks.activations import frozen_activations

    try:
        history = train_network(
            network,
            data.graphs,
            data.training,
            stage.tuning,
            lambda epoch: say(_progress(stage, epoch)),
            activations=frozen_activations(network, data.graphs, data.training, stage.tuning.strategy),
            checkpoint=folder,
        )
    except DivergedError as error:
        network.leave_training()
        raise DivergedError(f"stage {stage.name}: {error}{_keep(name, network, error, folder)}") from error
    network.leave_training()
    return history


@dataclass(frozen=True, eq=False)
class _Made:
    """All that a card tells of how a backbone was made."""

    stage: Stage
    start: Backbone
    teachers: Sequence[Backbone]
    tasks: Sequence[PropertyTask]
    data: StageData
    loaded: Loaded
    plan: Plan
    history: Sequence[Epoch]
    table: Mapping[str, Mapping[str, float | int | None]]

    def card(self, given: int) -> dict[str, object]:
        """JSON-ready; ``given`` is the number of materials before any was left out."""
        stage, start, materials = self.stage, self.start, self.data.materials
        scaling = zip(self.tasks, self.data.scaling.rows, strict=True)
        teachers = [{"name": t.name, "sha256": t.sha256} for t in self.teachers]
        used_hash = materials_hash(materials)
        return {
            "recipe": asdict(stage),
            "start": {"name": start.name, "sha256": start.sha256},
            **({"teachers": teachers} if teachers else {}),
            "materials": {
                "given": given,
                "used": len(materials),
                "held_out": int(self.data.held_out.sum()),
                "sha256": used_hash,
            },
            "scaling": {t.name: {"scale": t.scale, **s} for t, s in scaling},
            "held_out": self.table,
            "history": [asdict(e) for e in self.history],
            "seen": seen_prefixes(materials, self.tasks, *(b.card.get("seen", {}) for b in (start, *self.teachers))),
            "lineage": [*start.card.get("lineage", []), self._lineage(used_hash)],
        }

    def _lineage(self, used_hash: str) -> dict[str, object]:
        stage, plan = self.stage, self.plan
        return {
            "stage": stage.name,
            "start": self.start.name,
            "start_sha256": self.start.sha256,
            "properties": [t.name for t in self.tasks],
            "fidelity": stage.fidelity,
            "teachers": [teacher.name for teacher in self.teachers],
            "data_hash": used_hash,
            "strategy": stage.strategy,
            "loss": stage.loss,
            "seed": stage.seed,
            "loaded": {"matched": len(self.loaded.matched), "new": len(self.loaded.new)},
            "trained": {"tensors": len(plan.tensors), "parameters": plan.parameters},
            "held_out": self.table,
        }


def _column_statistics(network: GraphNetwork, data: StageData) -> dict[str, object]:
    """What a card says of the embeddings of training rows: nothing if they are few, from some of them if many."""
    rows = data.training
    if len(rows) < MIN_CRYSTALS:
        return {}
    some = np.random.default_rng(0).permutation(rows)[:MAX_CRYSTALS]
    embeddings = Backbone("", network, {}).embed([data.graphs.graphs[i] for i in some], data.graphs.statistics[some])
    return {"population": ColumnStatistics.of(embeddings).to_card()}


@dataclass(frozen=True, eq=False)
class Scaling:
    """Mean and standard deviation (P) of each property's values on training rows."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Scaling:
        """Of N x P values, NaN where unknown."""
        return cls(np.nanmean(values, axis=0), np.nanstd(values, axis=0))

    def standardised(self, values: NDArray[np.float64]) -> NDArray[np.float32]:
        """Values (N x P) in these units."""
        return ((values - self.mean) / self.std).astype(np.float32)

    @property
    def rows(self) -> list[dict[str, float]]:
        """Of each property, JSON-ready."""
        return [{"mean": float(m), "std": float(s)} for m, s in zip(self.mean, self.std, strict=True)]


def _is_usable(material: Material, elements: frozenset[str], stage: Stage, tasks: Sequence[PropertyTask]) -> bool:
    fits = len(material.crystal) <= stage.max_sites and set(material.crystal.symbols) <= elements
    return fits and any(np.isfinite(number(material.properties, task.name)) for task in tasks)


def begin_network(
    stage: Stage, start: Backbone, tasks: Sequence[PropertyTask], data: StageData
) -> tuple[GraphNetwork, Loaded]:
    """Network the stage begins with, and what of it came from ``start``."""
    import torch

    from engine.learning.networks.finetune import start_network

    strategy = strategies.parse(stage.strategy)
    has_trunk = bool(start.network.trunk_size)
    keep_trunk = stage.keep != "body" or strategy.name == "last" or (strategy.name == "frozen" and has_trunk)
    network, loaded = start_network(
        start,
        [task.name for task in tasks],
        stage.seed,
        strategy,
        trunk_size=start.network.trunk_size if keep_trunk and has_trunk else stage.trunk_size,
        keep_trunk=keep_trunk,
        loss=stage.loss,
        teacher_columns=data.n_teacher_columns,
    )
    if not keep_trunk:
        network.fit_statistics(torch.from_numpy(data.graphs.statistics[data.training]))
    if start.card.get("untrained"):
        return network, replace(loaded, matched=(), new=(*loaded.matched, *loaded.new))
    if stage.keep == "heads":
        _keep_heads(network, start, tasks, data.scaling)
        heads = ("heads.weight", "heads.bias")
        new = tuple(name for name in loaded.new if name not in heads)
        loaded = replace(loaded, matched=(*loaded.matched, *heads), new=new)
    return network, loaded


def _keep_heads(network: GraphNetwork, start: Backbone, tasks: Sequence[PropertyTask], scaling: Scaling) -> None:
    """Copy to each property the start's head of its name, or its only one, so that predictions stay what they were.

    The head was trained to standardised values of another mean and width, which is made up for exactly.
    """
    import torch

    known = start.network.properties
    with torch.no_grad():
        for row, (task, mean, std) in enumerate(zip(tasks, scaling.mean, scaling.std, strict=True)):
            source = task.name if task.name in known else known[0] if len(known) == 1 else ""
            before = start.card.get("scaling", {}).get(source)
            if before is None or before["scale"] != task.scale:
                raise BackboneError(
                    f"{start.name} has no head that could go on as {task.name!r} on a {task.scale} scale (it has "
                    f"{', '.join(known) or 'none'}); keep its trunk or body alone"
                )
            column = known.index(source)
            weight, bias = start.network.heads.weight[column], start.network.heads.bias[column]
            network.heads.weight[row] = weight * (before["std"] / std)
            network.heads.bias[row] = (bias * before["std"] + before["mean"] - mean) / std


def _held_out_table(
    network: GraphNetwork, data: StageData, tasks: Sequence[PropertyTask]
) -> dict[str, dict[str, float | int | None]]:
    """Number of labels, and errors on held-out crystals, of each property in its learned units."""
    rows, targets = np.flatnonzero(data.held_out), data.graphs.targets
    predicted = predict_network(network, data.graphs, rows)
    table: dict[str, dict[str, float | int | None]] = {}
    for column, (task, width) in enumerate(zip(tasks, data.scaling.std, strict=True)):
        known = np.isfinite(targets[rows, column])
        table[task.name] = {
            "labels_trained": int(np.isfinite(targets[~data.held_out, column]).sum()),
            "labels_held_out": int(known.sum()),
        }
        if known.any():
            truth, guess = targets[rows, column][known].astype(float), predicted[known, column].astype(float)
            found = accuracy(truth, guess, scale="linear")
            table[task.name] |= {
                "mae": found.mae * float(width),
                "mae_of_the_mean": float(np.abs(truth).mean()) * float(width),
                "spearman": found.spearman,
            }
    return table


def _keep(name: str, network: GraphNetwork, error: DivergedError, folder: Path | None) -> str:
    """Write the last good weights under ``folder`` and remove the checkpoint; returns where they are, for a message."""
    if folder is None:
        return ""
    (folder / CHECKPOINT).unlink(missing_ok=True)
    when = f"after epoch {error.kept}" if error.kept else "before the first epoch"
    return f"; the network as it was {when} is in {Backbone(name, network, {}).save(folder / LAST_GOOD)}"


def _progress(stage: Stage, epoch: Epoch) -> str:
    loss = "loss with that of teachers" if stage.teachers else "loss"
    text = (
        f"stage {stage.name}, epoch {epoch.number} of {stage.schedule.epochs}: {loss} {epoch.train_loss:.4f}, "
        f"validation {epoch.validation_loss:.4f}"
    )
    return f"{text} ({epoch.note})" if epoch.note else text
