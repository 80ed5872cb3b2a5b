"""Stages: a backbone is made by training in a chain, each stage on its data, from the weights of the one before.

A stage learns one property or many: one body and trunk, one head per property, any subset of properties per crystal,
after Devi, Butler and Gopalakrishnan, npj Comput. Mater. 10, 300 (2024), with two changes: the loss is averaged over
the labels a property really has and then balanced between properties, so that a large set does not drown a small one;
and properties are standardised on training rows, ``log10`` first where they span decades.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from engine.exceptions import BackboneError, DivergedError, TrainingError
from engine.graphs.crystal_graph import build_graph, collate
from engine.learning.backbones.backbone import (
    CARD,
    Backbone,
    body_sizes,
    build_body,
    known_compounds,
    load_backbone,
    node_types,
)
from engine.learning.backbones.column_statistics import MAX_CRYSTALS, MIN_CRYSTALS, Population
from engine.learning.features.statistics import crystal_statistics
from engine.learning.networks import strategies
from engine.learning.networks.losses import Balance, Loss, check_loss
from engine.learning.networks.training import CHECKPOINT, Epoch, GraphData, Schedule, predict_network, train_network
from engine.learning.pretraining.distillation import COLUMNS, check_teachers, load_teachers, taught_columns
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
from engine.learning.seeding import one_thread, seeded
from engine.metrics.accuracy import accuracy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.learning.backbones.network import GraphNetwork
    from engine.learning.networks.finetune import Loaded
    from engine.materials.crystal import Material

MIN_LABELS = 50
LAST_GOOD = "last-good"
"""Folder in that of a stage, with the network as it was before a loss became NaN."""
_NAME = re.compile(r"\w[\w.+-]*")
PREVIOUS = "previous"
SCRATCH: dict[str, tuple[str, dict[str, Any]]] = {
    "megnet": ("MEGNet", {}),
    "m3gnet": ("M3GNet", {"units": 32, "dim_node_embedding": 32, "dim_edge_embedding": 32, "nblocks": 2}),
    "tensornet": ("TensorNet", {"units": 32, "nblocks": 2}),
}
"""Untrained bodies by name: MatGL class and sizes, small enough for a few minutes on one core."""

Keep = Literal["body", "trunk", "heads"]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Stage:
    """All that decides the outcome of a stage, besides the materials and the starting weights."""

    name: str = ""
    """In folders and messages; that of the data if not given."""
    data: str = "data"
    """Role of the data set, given by the caller."""
    tasks: tuple[PropertyTask, ...] = ()
    """Properties to learn; those of the data set if it names any."""
    fidelity: str = ""
    """Of the labels; others are refused where fidelities are known."""
    mix_fidelities: bool = False
    """Whether labels of several fidelities may stand for one property."""
    start: str = PREVIOUS
    """``previous`` (the stage before, or what the chain was given), ``scratch:megnet|m3gnet|tensornet``, the name of an
    earlier stage, a backbone's name or path, or a trained model's."""
    body: Mapping[str, Any] = field(default_factory=dict)
    """Sizes of a body from scratch, as its MatGL class takes them, in place of those of :data:`SCRATCH`."""
    strategy: str = "full"
    keep: Keep = "body"
    """How much of the start goes on: ``body``, with its ``trunk``, or with its ``heads`` too; ``last`` and ``frozen``
    always go on with the trunk, where there is one."""
    teachers: tuple[str, ...] = ()
    """Backbones or potentials by name or path whose columns it learns to give beside the properties, see
    :mod:`engine.learning.pretraining.distillation`; all columns together count as much as all properties."""
    loss: Loss = "huber"
    balance: Balance = "equal"
    schedule: Schedule = field(default_factory=lambda: Schedule(epochs=20, batch_size=64))
    held_out_fraction: float = 0.05
    """Chemical formulas never trained on; they give the table of the model card."""
    max_sites: int = 60
    min_labels: int = MIN_LABELS
    """Fewest labels of a property that are worth a head."""
    trunk_size: int = 128
    """Of a new trunk."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse words that are not known, before anything expensive."""
        if not self.name:
            object.__setattr__(self, "name", self.data)
        if not _NAME.fullmatch(self.name):  # it becomes a folder
            raise TrainingError(f"stage name {self.name!r} holds more than letters, digits and . _ + -; change it")
        if not 0 <= self.held_out_fraction < 1:
            raise TrainingError(
                f"held_out_fraction of stage {self.name} must be in [0, 1), got {self.held_out_fraction}"
            )
        for field_, lowest in (("max_sites", 1), ("min_labels", 2), ("trunk_size", 1), ("seed", 0)):
            if getattr(self, field_) < lowest:
                raise TrainingError(
                    f"{field_} of stage {self.name} must be at least {lowest}, got {getattr(self, field_)}"
                )
        strategy = strategies.parse(self.strategy)
        check_loss(self.loss, self.balance)
        check_teachers(self.name, self.teachers, strategy)
        if self.keep not in get_args(Keep):
            raise TrainingError(f"stage {self.name} keeps {self.keep!r}; choose one of {', '.join(get_args(Keep))}")
        if strategy.name == "head" and self.keep != "body":
            raise TrainingError(
                f"stage {self.name} keeps the {self.keep} but its strategy 'head' takes new ones; use 'frozen'"
            )
        if self.start.startswith("scratch"):
            _scratch_kind(self.start)
            if strategy.keeps_body or self.keep != "body":
                raise TrainingError(
                    f"stage {self.name} starts from scratch, so that there is nothing to keep frozen or to go on with; "
                    "use strategy 'full' and keep 'body'"
                )


@dataclass(frozen=True)
class Recipe:
    """A chain of stages."""

    name: str
    stages: tuple[Stage, ...]
    description: str = ""

    def __post_init__(self) -> None:
        """Refuse a recipe that makes nothing, or two stages that could not be told apart."""
        names = [stage.name for stage in self.stages]
        if not names:
            raise TrainingError(f"recipe {self.name} has no stage; give at least one")
        if len(set(names)) < len(names):
            raise TrainingError(f"stages of recipe {self.name} share a name ({', '.join(names)}); name each")
        for number_, stage in enumerate(self.stages):
            if stage.start in names[number_:]:
                raise TrainingError(
                    f"stage {stage.name} starts from stage {stage.start}, which does not come before it; change the "
                    "order, or the stage's name if a backbone of that name is meant"
                )

    @property
    def roles(self) -> tuple[str, ...]:
        """Data sets it needs, in order."""
        return tuple(dict.fromkeys(stage.data for stage in self.stages))

    def without(self, names: Sequence[str]) -> Recipe:
        """Leave out stages."""
        unknown = sorted(set(names) - {stage.name for stage in self.stages})
        if unknown:
            known = ", ".join(stage.name for stage in self.stages)
            raise TrainingError(f"recipe {self.name} has no stage {', '.join(unknown)}; there are {known}")
        left = tuple(stage for stage in self.stages if stage.name not in names)
        if orphans := [stage for stage in left if stage.start in names]:
            raise TrainingError(f"stage {orphans[0].name} starts from stage {orphans[0].start}, which is left out")
        return replace(self, stages=left)


def run_stages(
    recipe: Recipe,
    data: Mapping[str, DataSet],
    work: Path | str,
    start: Backbone | str | Path | None = None,
    say: Say | None = None,
) -> Iterator[Backbone]:
    """Train the stages one after another, giving the backbone of each.

    Every stage has its folder under ``work``: the finished backbone, or the checkpoint of the epoch it was in, from
    which an interrupted chain goes on to the result it would have had. ``start`` takes the place of the first stage's
    own start.

    Raises
    ------
    TrainingError
        If a data set or a start is missing, ``work`` holds another chain, or labels of two fidelities are mixed.
    DivergedError
        If a loss becomes NaN; the last good network is then in the stage's folder, and the stage starts anew there.
    """
    say = say or (lambda _: None)
    absent = [role for role in recipe.roles if role not in data]
    if absent:
        raise TrainingError(
            f"recipe {recipe.name} needs data for {', '.join(recipe.roles)}; {', '.join(absent)} is not given"
        )
    for stage in recipe.stages:  # before the first of them takes its time
        _tasks(stage, data[stage.data])
        load_teachers(stage.teachers)
    finished: dict[str, Backbone] = {}
    for number_, (stage, begins) in enumerate(zip(recipe.stages, _starts(recipe, start), strict=True), start=1):
        begin = begins if isinstance(begins, Backbone) else finished[begins]
        folder = Path(work) / f"{number_}-{stage.name}"
        identity = _identity(stage, data[stage.data], begin)
        if (folder / CARD).is_file():
            made = load_backbone(folder)
            if made.card.get("identity") != identity:
                raise TrainingError(
                    f"{folder} holds a backbone of other data, settings or starting weights; "
                    "choose another folder or remove it"
                )
            say(f"stage {stage.name} is finished already")
        else:
            name = recipe.name if number_ == len(recipe.stages) else f"{recipe.name}-{stage.name}"
            trained = train_stage(name, stage, begin, data[stage.data], say, folder)
            card = {**trained.card, "identity": identity}
            made = load_backbone(Backbone(name, trained.network, card).save(folder))
            (folder / CHECKPOINT).unlink(missing_ok=True)
            if (folder / COLUMNS).exists():
                shutil.rmtree(folder / COLUMNS)
        yield made
        finished[stage.name] = made


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
    from engine.learning.networks.activations import frozen_activations

    say = say or (lambda _: None)
    tasks = _tasks(stage, data)
    teachers = load_teachers(stage.teachers)
    elements = frozenset.intersection(start.elements, *(teacher.elements for teacher in teachers))
    usable = [m for m in data.materials if _is_usable(m, elements, stage, tasks)]
    values = learned_values(usable, tasks)
    held_out = held_out_rows(usable, stage.held_out_fraction, stage.seed)
    check_labels(values, ~held_out, tasks, stage.min_labels)
    scaling = _Scaling.of(values[~held_out])
    graphs = GraphData(
        graphs=[build_graph(m.crystal, start.cutoff) for m in usable],
        statistics=crystal_statistics(m.crystal for m in usable),
        targets=scaling.standardised(values),
        node_types=start.node_types,
        taught=taught_columns(teachers, usable, ~held_out, folder, say),
    )
    training = np.flatnonzero(~held_out)
    strategy = strategies.parse(stage.strategy)
    imitated = 0 if graphs.taught is None else graphs.taught.shape[1]
    network, loaded = _begin(stage, strategy, start, tasks, scaling, graphs.statistics[training], imitated)
    plan = strategy.describe(network)
    say(f"stage {stage.name}, from {start.name}: {loaded}; {plan}")
    if folder is not None and (folder / CHECKPOINT).is_file():
        say(f"stage {stage.name} goes on from {folder / CHECKPOINT}")
    with one_thread():  # the sum of many threads depends on their number, and so would the weights
        try:
            history = train_network(
                network,
                graphs,
                training,
                stage.schedule,
                stage.seed,
                lambda epoch: say(_progress(stage, epoch)),
                strategy=strategy,
                loss=stage.loss,
                balance=stage.balance,
                activations=frozen_activations(network, graphs, training, strategy),
                checkpoint=folder,
            )
        except DivergedError as error:
            network.leave_training()
            raise DivergedError(f"stage {stage.name}: {error}{_keep(name, network, error, folder)}") from error
        network.leave_training()
        table = _held_out_table(network, graphs, held_out, tasks, scaling)
    used_hash = materials_hash(usable)
    card = {
        "recipe": asdict(stage),
        "start": {"name": start.name, "sha256": start.sha256},
        **({"teachers": [{"name": t.name, "sha256": t.sha256} for t in teachers]} if teachers else {}),
        "materials": {
            "given": len(data.materials),
            "used": len(usable),
            "held_out": int(held_out.sum()),
            "sha256": used_hash,
        },
        "scaling": {t.name: {"scale": t.scale, **s} for t, s in zip(tasks, scaling.rows, strict=True)},
        "held_out": table,
        "history": [asdict(e) for e in history],
        "seen": seen_prefixes(usable, tasks, *(b.card.get("seen", {}) for b in (start, *teachers))),
        "lineage": [
            *start.card.get("lineage", []),
            {
                "stage": stage.name,
                "start": start.name,
                "start_sha256": start.sha256,
                "properties": [t.name for t in tasks],
                "fidelity": stage.fidelity,
                "teachers": [teacher.name for teacher in teachers],
                "data_hash": used_hash,
                "strategy": stage.strategy,
                "loss": stage.loss,
                "seed": stage.seed,
                "loaded": {"matched": len(loaded.matched), "new": len(loaded.new)},
                "trained": {"tensors": len(plan.tensors), "parameters": plan.parameters},
                "held_out": table,
            },
        ],
    }
    return Backbone(name, network, card | _population(Backbone(name, network, {}), graphs, training))


def _population(backbone: Backbone, data: GraphData, rows: NDArray[np.int64]) -> dict[str, Any]:
    """Give what a card says of the embeddings of ``rows``: nothing if they are few, from some of them if many."""
    if len(rows) < MIN_CRYSTALS:
        return {}
    some = np.random.default_rng(0).permutation(rows)[:MAX_CRYSTALS]
    embeddings = backbone.embed([data.graphs[i] for i in some], data.statistics[some])
    return {"population": Population.of(embeddings).to_card()}


def scratch_backbone(start: str, sizes: Mapping[str, Any], seed: int) -> Backbone:
    """Untrained body, ``scratch:megnet`` or its like, of the sizes given and otherwise those of :data:`SCRATCH`."""
    import torch

    from engine.learning.backbones.network import GraphNetwork, body_readout

    class_name, settings = SCRATCH[_scratch_kind(start)]
    known = body_sizes(class_name)
    if unknown := sorted(set(sizes) - set(known)):  # MatGL takes any
        raise TrainingError(f"{class_name} has no size {unknown[0]!r}; there are {', '.join(known)}")
    with seeded(seed):
        try:
            body: Any = build_body(class_name, {**settings, **sizes})
        except (TypeError, ValueError) as error:
            raise TrainingError(
                f"{class_name} cannot be built with {dict(sizes)} ({error}); mend these sizes"
            ) from error
    batch = collate([build_graph(known_compounds()["NaCl"], float(body.cutoff))], node_types(body))
    with torch.no_grad():
        width = int(body_readout(body.eval(), batch).shape[1])
    return Backbone(start.replace(":", "-"), GraphNetwork(body, width, ()).eval(), {"untrained": True})


@dataclass(frozen=True, eq=False)
class _Scaling:
    """Mean and standard deviation (P) of each property's values on training rows."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> _Scaling:
        return cls(np.nanmean(values, axis=0), np.nanstd(values, axis=0))

    def standardised(self, values: NDArray[np.float64]) -> NDArray[np.float32]:
        return ((values - self.mean) / self.std).astype(np.float32)

    @property
    def rows(self) -> list[dict[str, float]]:
        return [{"mean": float(m), "std": float(s)} for m, s in zip(self.mean, self.std, strict=True)]


def _tasks(stage: Stage, data: DataSet) -> tuple[PropertyTask, ...]:
    tasks = data.tasks or stage.tasks
    if not tasks:
        raise TrainingError(f"stage {stage.name} learns no property; name one for its data {stage.data!r}")
    for task in tasks:
        found = sorted(set(data.fidelities.get(task.name, ())))
        if len(found) > 1 and not stage.mix_fidelities:
            raise TrainingError(
                f"labels of {task.name!r} for stage {stage.name} are of fidelities {', '.join(found)}; give each a "
                "stage of its own, or set mix_fidelities if they may stand for each other"
            )
        if stage.fidelity and found and stage.fidelity not in found:
            raise TrainingError(
                f"stage {stage.name} learns labels of fidelity {stage.fidelity}, those of {task.name!r} are "
                f"{', '.join(found)}; give it other data or change its fidelity"
            )
    return tasks


def _is_usable(material: Material, elements: frozenset[str], stage: Stage, tasks: Sequence[PropertyTask]) -> bool:
    fits = len(material.crystal) <= stage.max_sites and set(material.crystal.symbols) <= elements
    return fits and any(np.isfinite(number(material.properties, task.name)) for task in tasks)


def _begin(
    stage: Stage,
    strategy: strategies.Strategy,
    start: Backbone,
    tasks: Sequence[PropertyTask],
    scaling: _Scaling,
    statistics: NDArray[np.float32],
    imitated: int = 0,
) -> tuple[GraphNetwork, Loaded]:
    """Network the stage begins with, and what of it came from ``start``."""
    import torch

    from engine.learning.networks.finetune import start_network

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
        imitated=imitated,
    )
    if not keep_trunk:
        network.fit_statistics(torch.from_numpy(statistics))
    if start.card.get("untrained"):
        return network, replace(loaded, matched=(), new=(*loaded.matched, *loaded.new))
    if stage.keep == "heads":
        _keep_heads(network, start, tasks, scaling)
        heads = ("heads.weight", "heads.bias")
        new = tuple(name for name in loaded.new if name not in heads)
        loaded = replace(loaded, matched=(*loaded.matched, *heads), new=new)
    return network, loaded


def _keep_heads(network: GraphNetwork, start: Backbone, tasks: Sequence[PropertyTask], scaling: _Scaling) -> None:
    """Give each property the start's head of its name, or its only one, so that values stay what they were.

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
    network: GraphNetwork,
    data: GraphData,
    held_out: NDArray[np.bool_],
    tasks: Sequence[PropertyTask],
    scaling: _Scaling,
) -> dict[str, dict[str, float | int | None]]:
    rows = np.flatnonzero(held_out)
    predicted = predict_network(network, data, rows)
    table: dict[str, dict[str, float | int | None]] = {}
    for column, (task, width) in enumerate(zip(tasks, scaling.std, strict=True)):
        known = np.isfinite(data.targets[rows, column])
        table[task.name] = {
            "labels_trained": int(np.isfinite(data.targets[~held_out, column]).sum()),
            "labels_held_out": int(known.sum()),
        }
        if known.any():
            truth, guess = data.targets[rows, column][known].astype(float), predicted[known, column].astype(float)
            found = accuracy(truth, guess, scale="linear")
            table[task.name] |= {
                "mae": found.mae * float(width),
                "mae_of_the_mean": float(np.abs(truth).mean()) * float(width),
                "spearman": found.spearman,
            }
    return table


def _keep(name: str, network: GraphNetwork, error: DivergedError, folder: Path | None) -> str:
    """Keep the last good weights in ``folder``, and let another schedule start there anew; where they are."""
    if folder is None:
        return ""
    (folder / CHECKPOINT).unlink(missing_ok=True)
    when = f"after epoch {error.kept}" if error.kept else "before the first epoch"
    return f"; the network as it was {when} is in {Backbone(name, network, {}).save(folder / LAST_GOOD)}"


def _starts(recipe: Recipe, given: Backbone | str | Path | None) -> list[Backbone | str]:
    """Find what each stage starts from: a backbone, or a stage before it by name."""
    names = [stage.name for stage in recipe.stages]
    found: list[Backbone | str] = []
    for number_, stage in enumerate(recipe.stages):
        asked = stage.start if number_ or given is None else given
        if asked == PREVIOUS and not number_:
            raise TrainingError(f"stage {stage.name} starts from nothing; say what the chain starts from")
        if isinstance(asked, Backbone):
            found.append(asked)
        elif asked == PREVIOUS or asked in names[:number_]:
            found.append(names[number_ - 1] if asked == PREVIOUS else str(asked))
        else:
            found.append(_start(asked, stage))
    return found


def _start(asked: str | Path, stage: Stage) -> Backbone:
    from engine.learning.ensemble.storage import load_start

    if str(asked).startswith("scratch"):
        return scratch_backbone(str(asked), stage.body, stage.seed)
    return load_start(asked)


def _scratch_kind(start: str) -> str:
    kind = start.removeprefix("scratch:")
    if kind not in SCRATCH:
        raise TrainingError(f"unknown start {start!r}; from scratch is one of scratch:{', scratch:'.join(SCRATCH)}")
    return kind


def _identity(stage: Stage, data: DataSet, start: Backbone) -> str:
    """SHA-256 of all that decides a stage."""
    tasks = [asdict(task) for task in data.tasks or stage.tasks]
    weights = [backbone.sha256 for backbone in (start, *load_teachers(stage.teachers))]
    settings = asdict(stage)
    if not stage.teachers:
        del settings["teachers"]  # as it was before there were any
    content = json.dumps([settings, tasks, materials_hash(data.materials), *weights], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _progress(stage: Stage, epoch: Epoch) -> str:
    loss = "loss with that of teachers" if stage.teachers else "loss"
    text = (
        f"stage {stage.name}, epoch {epoch.number} of {stage.schedule.epochs}: {loss} {epoch.train_loss:.4f}, "
        f"validation {epoch.validation_loss:.4f}"
    )
    return f"{text} ({epoch.note})" if epoch.note else text
