"""ParAIsite done right: formation energy, then AGL, then first principles (Klochko et al., arXiv 2411.18259; 2026).

Steps as in the source: I from scratch, II from formation energies, III from formation energies by way of AGL; and III
without formation energies. Unlike there the loading of weights is proven, scalers and the choice of the epoch see only
training rows, test rows are never used, and errors are in W/(m K). Starting models other than MEGNet stand beside each
other in :mod:`campaigns.studies.starting_models`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from campaigns.exceptions import CampaignError
from campaigns.studies.data import SOURCES, Say, check_unseen, random_splits, read_sources, values_of
from campaigns.studies.models import (
    Ensembles,
    Features,
    fine_tuned,
    gaussian_process,
    predict,
    pretrained,
    small_stage,
    straight_line,
    trees,
)
from campaigns.studies.paraisite_tables import METHODS, tables
from campaigns.studies.results import Cells, Result, digest, judge
from campaigns.studies.starting_models import StartData, StartingModels, StartSettings, tables_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.learning.backbones.backbone import Backbone
    from engine.learning.ensemble.ensemble import Ensemble
    from engine.learning.pretraining.stage import Keep, Stage
    from engine.materials.crystal import Material

    Array = NDArray[np.float64]

NAME = "paraisite"
SETS = ("L96", "HH143", "MIX", "AFLOW")


@dataclass(frozen=True)
class Settings:
    """All that decides the study besides data and backbones."""

    splits: int = 5
    sets: tuple[str, ...] = SETS
    pretraining_epochs: int = 12
    """Of formation energies and of AGL, batches of 64."""
    scratch_epochs: int = 60
    """Of step I on the small sets, batches of 16."""
    transfer_epochs: int = 30
    """Of all others on the small sets, batches of 16, learning rate 5e-4."""
    large_epochs: int = 8
    """Of AFLOW, batches of 64."""
    training_sites: int = 20
    """Largest AGL and formation-energy crystals that are trained on; all are tested on."""
    max_rows: int | None = None
    """Of AFLOW and of the formation energies; all if not given."""
    body: Mapping[str, Any] = field(default_factory=dict)
    """Sizes of MEGNet from scratch; MatGL's own if not given."""
    starts: StartSettings | None = field(default_factory=StartSettings)
    """Of the comparison of starting models, which is left out if not given."""


QUICK = Settings(
    splits=2,
    pretraining_epochs=5,
    scratch_epochs=20,
    transfer_epochs=12,
    large_epochs=4,
    training_sites=15,
    max_rows=800,
    starts=StartSettings(
        seeds=1, max_rows=300, training_sites=8, pretraining_epochs=2, scratch_epochs=10, transfer_epochs=6
    ),
)


def run(data: Path, work: Path, say: Say, settings: Settings | None = None, start: str = "") -> Result:
    """Run the study on the files in ``data``, going on from what is in ``work``.

    ``start`` is a backbone that has learned formation energies, in place of the file of formation energies.
    """
    study = _Study(settings or Settings(), data, work, say, start)
    rows = [row for name in study.settings.sets for row in study.rows(name)]
    result = study.result(rows)
    if study.starting_models is None:
        return result
    started = list(study.starting_models.rows())
    return replace(
        result,
        rows=[*rows, *started],
        tables=f"{result.tables}\n\n{tables_of(study.starting_models, started)}",
        facts={**result.facts, "starting_models": study.starting_models.facts()},
        seconds=result.seconds + study.starting_models.cells.seconds,
    )


class _Study:
    """Data, backbones made when first needed, and cells."""

    def __init__(self, settings: Settings, data: Path, work: Path, say: Say, start: str):
        from engine.learning.backbones.backbone import SIDE_BY_SIDE, load_backbone
        from engine.learning.ensemble.storage import load_start, load_starts

        given = load_start(start) if start else None
        roles = ["agl", "L96", "HH143", *([] if start else ["formation_energy"])]
        self.settings, self.work, self.say, self.start = settings, work, say, start
        found = read_sources(data, roles, say)
        for role in ("agl", "formation_energy"):
            if role in found and settings.max_rows:
                chosen = np.random.default_rng(0).permutation(len(found[role]))[: settings.max_rows]
                found[role] = [found[role][i] for i in sorted(chosen)]
        self.sets = {**found, "MIX": [*found["L96"], *found["HH143"]], "AFLOW": found["agl"]}
        self.shipped, self.side_by_side = load_backbone(), load_starts(SIDE_BY_SIDE)
        for role in ("agl", "L96", "HH143"):
            for backbone in (self.side_by_side, *([given] if given else [])):
                check_unseen(backbone, found[role], SOURCES[role])
        self.given = given
        self.cells = Cells(work / "cells", say)
        self.starting_models = self._starting_models(data)

    def _starting_models(self, data: Path) -> StartingModels | None:
        """Comparison of starting models, if it is wanted; with ``--from`` it needs the formation energies too."""
        if self.settings.starts is None:
            return None
        energies = self.sets.get("formation_energy")
        if energies is None:
            try:
                energies = read_sources(data, ["formation_energy"], self.say)["formation_energy"]
            except CampaignError as error:
                self.say(f"warning: {error}; without it the starting models are not compared")
                return None
        targets = {name: self.sets[name] for name in self.settings.starts.sets}
        known = StartData(targets, self._agl_rows(overlap=False), energies)
        return StartingModels(
            self.settings.starts, known, self.shipped, self.given, self.settings.splits, self.work, self.say
        )

    @cached_property
    def scratch(self) -> Backbone:
        from engine.learning.pretraining.scratch import scratch_backbone

        return scratch_backbone("scratch:megnet", self.settings.body, 0)

    @cached_property
    def formation_energy(self) -> Backbone:
        """Body that has learned formation energies."""
        from engine.learning.pretraining.tasks import DataSet

        if self.given:
            return self.given
        stage = self._large("formation_energy", SOURCES["formation_energy"].property, "linear")
        rows = DataSet(self._small_enough(self.sets["formation_energy"]))
        return pretrained(self.work / "backbones", stage, self.scratch, rows, self.say)

    @cached_property
    def agl(self) -> Backbone:
        """Formation energy, then AGL without the compounds of the first-principles sets."""
        return self._agl("agl", self.formation_energy, overlap=False)

    @cached_property
    def agl_with_overlap(self) -> Backbone:
        return self._agl("agl_with_overlap", self.formation_energy, overlap=True)

    @cached_property
    def ensembles(self) -> Ensembles:
        return Ensembles(self.side_by_side, self.work / "features")

    @cached_property
    def cheaper(self) -> Ensemble:
        """The product's ensemble on AGL without the compounds of the first-principles sets."""
        return self.ensembles.trained(self._agl_rows(overlap=False), SOURCES["agl"], 0)

    @cached_property
    def cheaper_with_overlap(self) -> Ensemble:
        return self.ensembles.trained(self._agl_rows(overlap=True), SOURCES["agl"], 0)

    @cached_property
    def agl_from_scratch(self) -> Backbone:
        return self._agl("agl_from_scratch", self.scratch, overlap=False)

    def rows(self, name: str) -> Iterator[dict[str, Any]]:
        """Figures of every split and method of one set."""
        materials = self.sets[name]
        source = SOURCES["agl" if name == "AFLOW" else "L96"]
        values = values_of(materials, source)
        features = Features.of(self.shipped, materials)
        for split, (training, test) in enumerate(random_splits(len(materials), self.settings.splits)):
            part = _Part(name, split, materials, values, features, training, test)
            for method in METHODS:
                if name == "AFLOW" and (method.startswith(("III", "AGL")) or "overlap" in method):
                    continue
                predicted = self._cell(method, part)
                figures = judge(values[test], predicted, "log10")
                yield {"set": name, "method": method, "split": split, "test_rows": len(test), **figures}

    def _cell(self, method: str, part: _Part) -> Array:
        settings = {
            "study": NAME, "set": part.name, "method": method, "split": part.split, "all": self._for_cells,
            "data": self._fingerprint, "start": self.given.sha256 if self.given else "",
            "shipped": self.side_by_side.sha256,
        }  # fmt: skip
        return self.cells.predicted(settings, self._compute(method, part))

    @property
    def _for_cells(self) -> dict[str, Any]:
        """Settings that decide a cell; the others only say which cells there are."""
        return {
            name: value for name, value in asdict(self.settings).items() if name not in ("splits", "sets", "starts")
        }

    def result(self, rows: Sequence[Mapping[str, Any]]) -> Result:
        """Tables and facts of all cells."""
        known = {m.formula for m in (*self.sets["L96"], *self.sets["HH143"])}
        overlap = [m for m in self.sets["agl"] if m.formula in known]
        agl = {m.formula for m in self.sets["agl"]}
        shared = {n: sum(m.formula in agl for m in self.sets[n]) for n in ("L96", "HH143")}
        loaded = self._loading()
        facts = {
            "rows": {name: len(self.sets[name]) for name in self.settings.sets},
            "agl_crystals_of_the_same_compounds": len(overlap),
            "test_crystals_with_an_agl_label_of_their_compound": shared,
            "loaded": loaded,
            "shipped_backbones": {part.name: part.sha256 for part in self.side_by_side.parts},
        }
        not_run = [name for name in SETS if name not in self.settings.sets]
        reductions = [
            *([f"Not run here: {', '.join(not_run)}."] if not_run else []),
            f"{self.settings.splits} random 80/20 splits (seeds 0 to {self.settings.splits - 1}) where the source has "
            "9; 15 % of the 80 % choose the epoch.",
            f"Epochs: {self.settings.pretraining_epochs} of pre-training, {self.settings.scratch_epochs} from scratch, "
            f"{self.settings.transfer_epochs} of transfer, {self.settings.large_epochs} on AFLOW; the source has 300. "
            f"Networks are trained on crystals of at most {self.settings.training_sites} sites and tested on all.",
            f"Formation energies: {self.start or 'those of the file'}."
            + (f" AFLOW cut to {self.settings.max_rows} rows." if self.settings.max_rows else ""),
            f"AGL: {len(self.sets['agl'])} crystals, of which {len(overlap)} are compounds of L96 or HH143 "
            f"({shared['L96']} of {len(self.sets['L96'])} and {shared['HH143']} of {len(self.sets['HH143'])} crystals "
            "there); they are left out but where `with overlap` is said.",
            *(f"Tensors loaded into {stage}: {words}." for stage, words in loaded.items()),
        ]
        return Result(
            NAME, rows, tables(rows, self.settings.sets), facts, asdict(self.settings), self.cells.seconds, reductions
        )

    @cached_property
    def _fingerprint(self) -> str:
        from engine.learning.pretraining.tasks import materials_hash

        return digest({name: materials_hash(found) for name, found in self.sets.items()})

    def _compute(self, method: str, part: _Part) -> Callable[[], Array]:
        if method in ("random forest", "extra-trees"):
            kind: Any = method.replace(" ", "_").replace("-", "_")
            return lambda: part.trees(kind, part.features.statistics)
        plain: dict[str, Callable[[], Array]] = {
            "constant": lambda: np.full(len(part.test), np.median(part.values[part.training])),
            "extra-trees, transfer": lambda: part.trees("extra_trees", self._transferred(part)),
            "AGL line": lambda: part.line(predict(self.agl, part.materials)),
            "I": lambda: self._fine_tuned(part, self.scratch),
            "II": lambda: self._fine_tuned(part, self.formation_energy),
            "III": lambda: self._fine_tuned(part, self.agl),
            "III, mean of three": lambda: np.mean(
                [self._fine_tuned(part, self.agl, part.split + 1000 * k) for k in range(3)], axis=0
            ),
            "III with overlap": lambda: self._fine_tuned(part, self.agl_with_overlap),
            "III without formation energy": lambda: self._fine_tuned(part, self.agl_from_scratch),
            "process": lambda: self._process(part),
            "ours": lambda: self._ours(part),
            "mean of ours, process and III": lambda: np.mean(
                [
                    self._cell(other, part)
                    for other in ("ours", "process", "II" if part.name == "AFLOW" else "III, mean of three")
                ],
                axis=0,
            ),
            "ours with overlap": lambda: self._ours(part, overlap=True),
        }
        return plain[method]

    def _transferred(self, part: _Part) -> Features:
        return part.features if part.name == "AFLOW" else part.features.joined("agl", predict(self.agl, part.materials))

    def _ours(self, part: _Part, *, overlap: bool = False) -> Array:
        """As a campaign would predict the test rows."""
        training, test = ([part.materials[i] for i in rows] for rows in (part.training, part.test))
        if part.name == "AFLOW":
            fitted = self.ensembles.trained(training, SOURCES["agl"], part.split)
        else:
            beneath = self.cheaper_with_overlap if overlap else self.cheaper
            fitted = self.ensembles.trained(training, SOURCES["L96"], part.split, beneath)
        return self.ensembles.predict(fitted, test)

    def _process(self, part: _Part) -> Array:
        """Best of four Gaussian processes by leave-one-out error on the training rows; one for AFLOW."""
        training, test, values = part.training, part.test, part.values[part.training]
        if part.name == "AFLOW":
            return gaussian_process(part.features[training], values, part.features[test], part.split)[0]
        estimate = predict(self.agl, part.materials)
        found = []
        for features in (part.features.statistics, part.features):
            columns = features.joined("agl", estimate)
            for lines in (None, (estimate[training], estimate[test])):
                found.append(gaussian_process(columns[training], values, columns[test], part.split, lines))
        return min(found, key=lambda pair: pair[1])[0]

    def _fine_tuned(self, part: _Part, start: Backbone, seed: int | None = None) -> Array:
        seed = part.split if seed is None else seed
        training = [part.materials[i] for i in part.training]
        test = [part.materials[i] for i in part.test]
        if part.name == "AFLOW":
            stage = self._large("target", SOURCES["agl"].property, "log10", self.settings.large_epochs, seed)
            return fine_tuned(stage, start, self._small_enough(training), test)
        from_scratch = start is self.scratch
        rate = 1e-3 if from_scratch else 5e-4
        epochs = self.settings.scratch_epochs if from_scratch else self.settings.transfer_epochs
        # step III goes on with the head of AGL, which is the same property at another fidelity
        keep: Keep = "heads" if start.network.properties == (SOURCES["agl"].property,) else "body"
        stage = small_stage(
            SOURCES["L96"], name="target", epochs=epochs, seed=seed, keep=keep, schedule={"learning_rate": rate}
        )
        return fine_tuned(stage, start, training, test)

    def _agl(self, name: str, start: Backbone, *, overlap: bool) -> Backbone:
        from engine.learning.pretraining.tasks import DataSet

        rows = self._small_enough(self._agl_rows(overlap=overlap))
        stage = self._large(name, SOURCES["agl"].property, "log10")
        return pretrained(self.work / "backbones", stage, start, DataSet(rows), self.say)

    def _agl_rows(self, *, overlap: bool) -> list[Material]:
        known = {m.formula for m in (*self.sets["L96"], *self.sets["HH143"])}
        return [m for m in self.sets["agl"] if overlap or m.formula not in known]

    def _large(self, name: str, property: str, scale: Any, epochs: int = 0, seed: int = 0) -> Stage:
        """Stage on thousands of rows."""
        from engine.learning.networks.schedule import Schedule
        from engine.learning.pretraining.stage import Stage
        from engine.learning.pretraining.tasks import PropertyTask

        fraction = 0.05 if name != "target" else 0.15
        return Stage(
            name=name,
            data="rows",
            tasks=(PropertyTask(property, scale),),
            schedule=Schedule(epochs or self.settings.pretraining_epochs, batch_size=64, validation_fraction=fraction),
            held_out_fraction=0.05 if name != "target" else 0.0,
            min_labels=8,
            seed=seed,
        )

    def _small_enough(self, materials: Sequence[Material]) -> list[Material]:
        return [m for m in materials if len(m.crystal) <= self.settings.training_sites]

    def _loading(self) -> dict[str, str]:
        """How many tensors the AGL stage took over, from the lineage that training wrote."""
        loaded = self.agl.card["lineage"][-1]["loaded"]
        words = f"{loaded['matched']} of {loaded['matched'] + loaded['new']}, all of the body; the others are new"
        return {"AGL from formation energy": words}


@dataclass(frozen=True, eq=False)
class _Part:
    """One split of one set."""

    name: str
    split: int
    materials: Sequence[Material]
    values: Array
    features: Features
    training: NDArray[np.int64]
    test: NDArray[np.int64]

    def trees(self, kind: Any, columns: Features) -> Array:
        return trees(kind, columns[self.training], self.values[self.training], columns[self.test], self.split)

    def line(self, estimate: Array) -> Array:
        return straight_line(estimate[self.training], estimate[self.test], self.values[self.training])[1]
