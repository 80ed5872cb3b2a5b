"""Starting models side by side: how much of what transfer gains is structure, and how much composition alone.

After Figure 2 of Klochko et al. (arXiv 2411.18259), which sets MEGNet against CrabNet: MatGL's MEGNet, M3GNet and
TensorNet, the shipped backbone, and a network that reads the formula alone in CrabNet's place. All of them learn by the
same loop, from the same crystals, for as many epochs, on the same splits; a run is a split with a seed, which the
pre-training has too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np

from campaigns.studies.data import SOURCES, Say, StudySource, random_splits, values_of
from campaigns.studies.models import Features, fine_tuned, pretrained, small_stage, trees
from campaigns.studies.results import Cells, digest, judge, markdown, mean_std

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.learning.backbones.backbone import Backbone
    from engine.learning.pretraining.stage import Stage
    from engine.materials.crystal import Material

    Array = NDArray[np.float64]

COMPOSITION_NETWORK = "composition network"
SHIPPED = "shipped backbone"
FROM_SCRATCH = {
    COMPOSITION_NETWORK: "scratch:composition",
    "MEGNet": "scratch:megnet",
    "M3GNet": "scratch:m3gnet",
    "TensorNet": "scratch:tensornet",
}
"""Untrained starts by the name of their row."""
MODELS = (*FROM_SCRATCH, SHIPPED)
STEPS = ("I", "II", "III")
TREES = {
    "trees on composition": "300 extra-trees on the 25 statistics that the formula determines",
    "trees with structure": "300 extra-trees on all 88 statistics of the crystal",
}
_TABLE = {"mape": "MAPE", "mae": "MAE in log10", "spearman": "Spearman"}


@dataclass(frozen=True)
class StartSettings:
    """All that decides the comparison besides data and backbones."""

    models: tuple[str, ...] = MODELS
    sets: tuple[str, ...] = ("L96", "HH143")
    seeds: int = 1
    """Of pre-training and fine-tuning; each runs over all splits."""
    max_rows: int = 3000
    """Formation energies and AGL labels of pre-training, each."""
    training_sites: int = 12
    """Largest crystals of pre-training."""
    pretraining_epochs: int = 10
    """Of formation energies and of AGL, batches of 64."""
    scratch_epochs: int = 60
    """Of step I, batches of 16, learning rate 1e-3."""
    transfer_epochs: int = 30
    """Of steps II and III, batches of 16, learning rate 5e-4."""
    bodies: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Sizes of a body from scratch by name of its row, in place of its own."""


@dataclass(frozen=True, eq=False)
class StartData:
    """Crystals of the comparison."""

    targets: Mapping[str, Sequence[Material]]
    """First-principles sets by name."""
    agl: Sequence[Material]
    """Without the compounds of the first-principles sets."""
    formation_energies: Sequence[Material]


class StartingModels:
    """Cells of the comparison, pre-trained backbones made when first needed.

    ``shipped`` is the product's backbone; ``given``, if any, another one that has learned formation energies, with a
    row of its own. Neither may have seen a conductivity.
    """

    def __init__(
        self,
        settings: StartSettings,
        data: StartData,
        shipped: Backbone,
        given: Backbone | None,
        splits: int,
        work: Path,
        say: Say,
    ):
        self.settings, self.data, self.splits, self.say = settings, data, splits, say
        self.trained: dict[str, Backbone] = {SHIPPED: shipped} if SHIPPED in settings.models else {}
        if given is not None:
            self.trained[given.name] = given
        self.models = tuple(dict.fromkeys([*settings.models, *self.trained]))
        self.cells = Cells(work / "cells", say)
        self._folder = work / "backbones"
        self._new_formulas: dict[tuple[str, str], list[float]] = {}
        self._made: dict[tuple[str, str, int], Backbone] = {}

    def rows(self) -> Iterator[dict[str, object]]:
        """Figures of every run: set, method (model and step), split, seed (``draw``)."""
        for name in self.settings.sets:
            materials = self.data.targets[name]
            values = values_of(materials, SOURCES["L96"])
            for split, (training, test) in enumerate(random_splits(len(materials), self.splits)):
                known = {materials[i].formula for i in training}
                new = np.array([materials[i].formula not in known for i in test])
                for seed in range(self.settings.seeds):
                    run = _Run(name, materials, training, test, split, seed)
                    for method, compute in self._methods(run):
                        predicted = compute()
                        if new.any():
                            errors = np.abs(predicted - values[test])[new]
                            self._new_formulas.setdefault((name, method), []).append(float(errors.mean()))
                        figures = judge(values[test], predicted, "log10")
                        yield {
                            "set": name, "method": method, "split": split, "draw": seed, "test_rows": len(test),
                            **figures,
                        }  # fmt: skip

    def facts(self) -> dict[str, object]:
        """What is not a figure of a run: sizes and held-out errors of pre-training, errors of formulas not seen."""
        return {
            "settings": asdict(self.settings),
            "splits": self.splits,
            "agl_crystals": len(self._agl_rows),
            "formation_energies": len(self._energy_rows),
            "cpu_minutes": round(self.cells.seconds / 60, 1),
            "pretraining": {model: self._pretraining(model) for model in self.models},
            "mae_of_new_formulas": {f"{name}, {method}": v for (name, method), v in self._new_formulas.items()},
        }

    def parameters(self, model: str) -> int:
        """Number of weights of a model's body."""
        return sum(p.numel() for p in self._start(model, 0).body.parameters())

    def new_formulas(self, name: str, method: str) -> Sequence[float]:
        """Mean error in log10 kappa of each run's test crystals whose formula is not among its training crystals."""
        return self._new_formulas.get((name, method), [])

    def agl_errors(self, model: str, figure: str) -> list[float | None]:
        """Held-out figure of AGL in step III of a model, one a seed."""
        property = SOURCES["agl"].property
        return [self._agl(model, seed).card["held_out"][property].get(figure) for seed in range(self.settings.seeds)]

    def constant(self, name: str) -> list[dict[str, float | None]]:
        """Figures of the best constant of each split."""
        values = values_of(self.data.targets[name], SOURCES["L96"])
        return [
            cast(
                "dict[str, float | None]", judge(values[test], np.full(len(test), np.median(values[training])), "log10")
            )
            for training, test in random_splits(len(values), self.splits)
        ]

    def _methods(self, run: _Run) -> Iterator[tuple[str, Callable[[], Array]]]:
        """Name and predictions of each method of a run, which are made when they are called."""
        for method in TREES:
            yield method, partial(self._cell, run, method, "", partial(self._trees, run, method))
        for model in self.models:
            for step in STEPS[1:] if model in self.trained else STEPS:
                method, start = f"{model}, {step}", self._start(model, run.seed).sha256
                yield method, partial(self._cell, run, method, start, partial(self._fine_tuned, run, model, step))

    def _cell(self, run: _Run, method: str, start: str, compute: Callable[[], Array]) -> Array:
        settings = {
            "study": "paraisite-starts", "set": run.name, "method": method, "split": run.split, "seed": run.seed,
            "all": self._for_cells, "data": self._fingerprint, "start": start,
        }  # fmt: skip
        return self.cells.predicted(settings, compute)

    @property
    def _for_cells(self) -> dict[str, object]:
        """Settings that decide a cell; the others only say which cells there are."""
        return {k: v for k, v in asdict(self.settings).items() if k not in ("models", "sets", "seeds", "bodies")}

    @cached_property
    def _fingerprint(self) -> str:
        from engine.learning.pretraining.tasks import materials_hash

        sets = {**self.data.targets, "agl": self._agl_rows, "formation_energy": self._energy_rows}
        return digest({name: materials_hash(found) for name, found in sets.items()})

    def _trees(self, run: _Run, method: str) -> Array:
        from engine.learning.features.composition import FORMULA_COLUMNS
        from engine.learning.features.statistics import crystal_statistics

        columns = crystal_statistics(m.crystal for m in run.materials)
        if method == "trees on composition":
            columns = columns[:, FORMULA_COLUMNS]
        values = values_of(run.materials, SOURCES["L96"])[run.training]
        seed = run.split + 1000 * run.seed
        return trees("extra_trees", Features(columns[run.training]), values, Features(columns[run.test]), seed)

    def _fine_tuned(self, run: _Run, model: str, step: str) -> Array:
        start = {"I": self._start, "II": self._energy, "III": self._agl}[step](model, run.seed)
        stage = small_stage(
            SOURCES["L96"],
            name="target",
            epochs=self.settings.scratch_epochs if step == "I" else self.settings.transfer_epochs,
            seed=run.split + 1000 * run.seed,
            keep="heads" if step == "III" else "body",  # AGL is the same property at another fidelity
            schedule={"learning_rate": 1e-3 if step == "I" else 5e-4},
        )
        training, test = ([run.materials[i] for i in rows] for rows in (run.training, run.test))
        return fine_tuned(stage, start, training, test)

    def _start(self, model: str, seed: int) -> Backbone:
        """What a model is before any training here."""
        from engine.learning.pretraining.scratch import scratch_backbone

        if model in self.trained:
            return self.trained[model]
        sizes = self.settings.bodies.get(model, {})
        return self._kept("start", model, seed, lambda: scratch_backbone(FROM_SCRATCH[model], sizes, seed))

    def _energy(self, model: str, seed: int) -> Backbone:
        """A model that has learned formation energies, here or before."""
        if model in self.trained:
            return self.trained[model]
        stage = self._stage("formation_energy", SOURCES["formation_energy"], seed)
        start = self._start(model, seed)
        return self._kept(stage.name, model, seed, lambda: self._pretrained(stage, start, self._energy_rows))

    def _agl(self, model: str, seed: int) -> Backbone:
        """The same after AGL."""
        stage = self._stage("agl", SOURCES["agl"], seed)
        start = self._energy(model, seed)
        return self._kept(stage.name, model, seed, lambda: self._pretrained(stage, start, self._agl_rows))

    def _kept(self, step: str, model: str, seed: int, make: Callable[[], Backbone]) -> Backbone:
        """Backbone that is made when first needed."""
        if (step, model, seed) not in self._made:
            self._made[step, model, seed] = make()
        return self._made[step, model, seed]

    def _pretrained(self, stage: Stage, start: Backbone, rows: Sequence[Material]) -> Backbone:
        from engine.learning.pretraining.tasks import DataSet

        return pretrained(self._folder, stage, start, DataSet(rows), self.say)

    def _stage(self, name: Literal["formation_energy", "agl"], source: StudySource, seed: int) -> Stage:
        from engine.learning.networks.schedule import Schedule
        from engine.learning.pretraining.stage import Stage
        from engine.learning.pretraining.tasks import PropertyTask

        return Stage(
            name=name,
            data="rows",
            tasks=(PropertyTask(source.property, source.scale),),
            schedule=Schedule(self.settings.pretraining_epochs, batch_size=64, validation_fraction=0.05),
            held_out_fraction=0.1,
            min_labels=8,
            seed=seed,
        )

    @cached_property
    def _agl_rows(self) -> list[Material]:
        return self._chosen(self.data.agl)

    @cached_property
    def _energy_rows(self) -> list[Material]:
        return self._chosen(self.data.formation_energies)

    def _chosen(self, materials: Sequence[Material]) -> list[Material]:
        """Small crystals in file order, drawn at random if there are too many."""
        small = [m for m in materials if len(m.crystal) <= self.settings.training_sites]
        drawn = np.random.default_rng(0).permutation(len(small))[: self.settings.max_rows]
        return [small[i] for i in sorted(drawn.tolist())]

    def _pretraining(self, model: str) -> dict[str, object]:
        """Of each seed: held-out figures of the stages trained here, and how many tensors AGL took over."""
        found: dict[str, object] = {"parameters": self.parameters(model)}
        for seed in range(self.settings.seeds):
            agl = self._agl(model, seed)
            stages = agl.card["lineage"][-1 if model in self.trained else -2 :]
            found[f"seed {seed}"] = {s["stage"]: {"held_out": s["held_out"], "loaded": s["loaded"]} for s in stages}
        return found


@dataclass(frozen=True, eq=False)
class _Run:
    """One split of one set with one seed."""

    name: str
    materials: Sequence[Material]
    training: NDArray[np.int64]
    test: NDArray[np.int64]
    split: int
    seed: int


def tables_of(study: StartingModels, rows: Sequence[Mapping[str, object]]) -> str:
    """All tables as Markdown, from rows as :meth:`StartingModels.rows` has them."""
    settings, facts = study.settings, study.facts()
    sections = [
        "## Starting models\n",
        f"{study.splits} splits, seeds of each: {settings.seeds}; mean (standard deviation) over "
        f"{study.splits * settings.seeds} runs; {facts['cpu_minutes']} CPU-minutes of one thread.\n",
        f"- Steps: I from scratch, {settings.scratch_epochs} epochs; II formation energy -> set; III formation energy "
        f"-> AGL -> set; both {settings.transfer_epochs} epochs on the set.",
        f"- Pre-training, the same for all: {facts['formation_energies']} formation energies and "
        f"{facts['agl_crystals']} AGL crystals (none of a compound of the sets) of at most {settings.training_sites} "
        f"sites, {settings.pretraining_epochs} epochs each, a tenth of the formulas held out.",
        *_descriptions(study),
        "\n### Pre-training\n",
        markdown(
            [
                [
                    model,
                    f"{study.parameters(model):,}",
                    *(mean_std(study.agl_errors(model, figure)) for figure in ("mae", "spearman")),
                ]
                for model in study.models
            ],
            ["model", "weights of the body", "held-out AGL: MAE in log10", "Spearman"],
        ),
    ]
    for name in settings.sets:
        sections += [_set_table(study, rows, name), _structure_table(study, rows, name)]
    return "\n".join(sections)


def _descriptions(study: StartingModels) -> list[str]:
    """Methods in words."""
    return [
        *(f"- {name}: {words}." for name, words in TREES.items()),
        f"- {COMPOSITION_NETWORK}: attention between the elements of a formula, the trunk reading the 25 statistics "
        "that the formula determines; it stands in CrabNet's place and is not CrabNet.",
        "- MEGNet, M3GNet, TensorNet: MatGL's classes, untrained; their trunk reads all 88 statistics.",
        *(
            f"- {name}{'' if name == b.name else f' ({b.name})'}: trained before on more data, begins with step II."
            for name, b in study.trained.items()
        ),
    ]


def _set_table(study: StartingModels, rows: Sequence[Mapping[str, object]], name: str) -> str:
    formulas = [m.formula for m in study.data.targets[name]]
    shared = sum(formulas.count(f) > 1 for f in formulas)
    constant = study.constant(name)
    body = [["constant", *(mean_std([c[f] for c in constant]) for f in _TABLE), "-"]]
    for method in dict.fromkeys(str(row["method"]) for row in rows if row["set"] == name):
        figures = [mean_std(_values(rows, name, method, f)) for f in _TABLE]
        body.append([method, *figures, mean_std(list(study.new_formulas(name, method)))])
    return (
        f"### {name}\n\n{len(formulas)} crystals, of which {shared} share their formula with another, so that a random "
        "split may show it in training; the last column has the test crystals of other formulas alone.\n\n"
        + markdown(body, ["method", *_TABLE.values(), "MAE in log10, formula not trained on"])
    )


def _structure_table(study: StartingModels, rows: Sequence[Mapping[str, object]], name: str) -> str:
    """By how much each graph network is better than the composition network at the same step, run by run."""
    if COMPOSITION_NETWORK not in study.models:
        return ""
    constant = float(np.mean([c["mae"] for c in study.constant(name) if c["mae"] is not None]))
    body = []
    for model in study.models:
        for step in STEPS[1:] if model != COMPOSITION_NETWORK else ():
            without = np.array(_values(rows, name, f"{COMPOSITION_NETWORK}, {step}", "mae"), dtype=float)
            found = np.array(_values(rows, name, f"{model}, {step}", "mae"), dtype=float)
            share = (without.mean() - found.mean()) / (constant - found.mean())
            better = f"{(found < without).sum()} of {len(found)}"
            body.append([f"{model}, {step}", mean_std((without - found).tolist()), better, f"{100 * share:.0f} %"])
    head = ["method", "MAE in log10 less than that of the composition network", "runs in which it is less",
            "structure's share of the gain over a constant"]  # fmt: skip
    return f"### Gain of structure, {name}\n\n" + markdown(body, head)


def _values(rows: Sequence[Mapping[str, object]], name: str, method: str, figure: str) -> list[float | None]:
    """A figure of each run of a method on a set, in order."""
    found = [row[figure] for row in rows if row["method"] == method and row["set"] == name]
    return [float(v) if isinstance(v, int | float) else None for v in found]
