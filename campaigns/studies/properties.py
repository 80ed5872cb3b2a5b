"""Pair-wise and multi-property transfer by the number of labels (Devi, Butler, Gopalakrishnan, arXiv 2406.13142; 2024).

For each target property and N labels: from scratch, from a body that has learned one other property, from one that has
learned all others at once and never this one, trees, and Gaussian processes on the transferred embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from campaigns.exceptions import CampaignError
from campaigns.studies.data import SOURCES, Say, check_unseen, read_sources, values_of
from campaigns.studies.models import Ensembles, Features, fine_tuned, gaussian_process, pretrained, small_stage, trees
from campaigns.studies.results import Cells, Figure, Figures, Result, digest, judge, markdown, mean_of, mean_std, short
from engine.exceptions import TooFewLabelsError
from engine.metrics.splits import SplitKind, SplitSettings, split_materials

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.learning.backbones.backbone import Backbone
    from engine.learning.pretraining.stage import Keep
    from engine.materials.crystal import Material

    Array = NDArray[np.float64]

TARGETS = ("agl", "phonon_peak", "shear_modulus", "band_gap")
PAIRWISE_SOURCE = "formation_energy"
METHODS = {
    "constant": "best constant for the mean absolute error (median)",
    "extra-trees": "300 trees on crystal statistics",
    "scratch": "network from scratch, everything trained",
    "pair-wise": "the same from a body that has learned formation energies",
    "pair-wise GP": "Gaussian process on that body's embedding",
    "multi-property": "the same from body and trunk that have learned the four other properties at once",
    "multi-property trees": "extra-trees on statistics and the multi-property embedding",
    "multi-property GP": "Gaussian process on the multi-property embedding",
    "ours": "the product's ensemble on it: both of the last two, at shares that held-out errors ask for (the constant, "
    "where nearly all labels of a draw are equal, which it refuses)",
}
STUDIES = {
    "pairwise": ("constant", "extra-trees", "scratch", "pair-wise", "pair-wise GP"),
    "multiproperty": tuple(METHODS),
}
"""Methods of each study; cells are shared."""
_TEST_SHARE = 0.25
_TESTED = {
    "formula": "of other formulas",
    "space_group": "of other space groups",
    "tail": "with values below those of all labels",
}
"""Test rows of each split."""
_PUBLISHED = {
    "pairwise": "their MAE cut of pair-wise transfer against scratch at N = 100 / 200 / 500 / 800: 13.6 / 21.2 / 16.5 "
    "/ 13.6 % (mean of their pairs, ALIGNN)",
    "multiproperty": "their MAE cut of multi-property transfer against scratch at N = 100 / 200 / 500 / 800: 25.5 / "
    "27.9 / 18.4 / 9.8 %; Spearman at N = 100, scratch -> multi-property: band gap .63 -> .73, phonon peak .88 -> .95",
}


@dataclass(frozen=True)
class PropertiesSettings:
    """All that decides the studies besides data."""

    labels: tuple[int, ...] = (10, 30, 100, 300, 800)
    epochs: tuple[int, ...] = (60, 40, 30, 15, 10)
    """Of each number of labels, the same for scratch and transfer."""
    draws: int = 5
    test_rows: int = 300
    pretraining_epochs: int = 10
    max_sites: int = 14
    targets: tuple[str, ...] = TARGETS
    body: Mapping[str, object] = field(
        default_factory=lambda: {
            "hidden_layer_sizes_input": [32, 16],
            "hidden_layer_sizes_conv": [32, 32, 16],
            "nlayers_set2set": 1,
        }
    )
    """MEGNet with layers half as wide as MatGL's own, for all networks alike."""
    split: SplitKind = "formula"
    """What test rows have that no training row has."""

    def __post_init__(self) -> None:
        """Refuse numbers of labels without epochs."""
        if len(self.labels) != len(self.epochs):
            raise CampaignError(f"{len(self.labels)} numbers of labels but {len(self.epochs)} of epochs; give one each")


class PropertiesRow(Figures):
    """Figures of one cell."""

    target: str
    method: str
    draw: int
    n: int
    """Labels."""


QUICK = PropertiesSettings((10, 30, 100), (20, 20, 15), 2, 200, 4, 10)


def run(name: str, data: Path, work: Path, say: Say, settings: PropertiesSettings | None = None) -> Result:
    """Run ``pairwise`` or ``multiproperty`` on the files in ``data``, going on from what is in ``work``."""
    study = _Study(name, settings or PropertiesSettings(), data, work, say)
    return study.result(study.rows())


class _Study:
    def __init__(self, name: str, settings: PropertiesSettings, data: Path, work: Path, say: Say):
        from engine.learning.pretraining.scratch import scratch_backbone

        found = read_sources(data, (*TARGETS, PAIRWISE_SOURCE), say)
        self.name, self.settings, self.work, self.say = name, settings, work, say
        self.sets = {r: [m for m in rows if len(m.crystal) <= settings.max_sites] for r, rows in found.items()}
        self.scratch = scratch_backbone("scratch:megnet", settings.body, 0)
        self.cells = Cells(work / "cells", say)
        self._backbones: dict[str, Backbone] = {}
        self._ensembles: dict[str, Ensembles] = {}

    def rows(self) -> list[PropertiesRow]:
        """Figures of every cell."""
        found: list[PropertiesRow] = []
        for draw in range(self.settings.draws):
            for target in self.settings.targets:
                source = SOURCES[target]
                training, test = self._split(target, draw)
                values = values_of([self.sets[target][i] for i in test], source)
                for n in self.settings.labels:
                    for method in STUDIES[self.name]:
                        predicted = self._cell(method, target, draw, training[:n], test)
                        figures = judge(values, predicted, source.scale)
                        found.append({"target": target, "method": method, "draw": draw, "n": n, **figures})
        return found

    def _split(self, target: str, draw: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Training rows, in the order in which they are labelled, and test rows of other formulas (or as split)."""
        from engine.learning.pretraining.tasks import held_out_rows

        materials = self.sets[target]
        held_out = held_out_rows(materials, _TEST_SHARE, seed=draw)
        if self.settings.split != "formula":
            values = values_of(materials, SOURCES[target])
            found = split_materials(SplitSettings(self.settings.split, draw, _TEST_SHARE), materials, values)
            held_out = np.isin(np.arange(len(materials)), found.test)
        rng = np.random.default_rng(draw)
        training, test = (rng.permutation(np.flatnonzero(rows)) for rows in (~held_out, held_out))
        if len(training) < max(self.settings.labels):
            raise CampaignError(
                f"the study asks for {max(self.settings.labels)} labels of {target}, {len(training)} crystals of at "
                f"most {self.settings.max_sites} sites are there; add data or use --quick"
            )
        return training, test[: self.settings.test_rows]

    def _cell(self, method: str, target: str, draw: int, training: NDArray[np.int64], test: NDArray[np.int64]) -> Array:
        n = len(training)
        s = self.settings
        decisive = {"epochs": s.epochs[s.labels.index(n)], "pretraining_epochs": s.pretraining_epochs, "body": s.body}
        settings = {
            "study": "properties", "target": target, "method": method, "n": n, "draw": draw, **decisive,
            "max_sites": s.max_sites, "test_rows": s.test_rows, "data": self._fingerprint,
            **({} if s.split == "formula" else {"split": s.split}),
        }  # fmt: skip
        return self.cells.predicted(settings, self._compute(method, target, draw, training, test))

    def _compute(
        self, method: str, target: str, draw: int, training: NDArray[np.int64], test: NDArray[np.int64]
    ) -> Callable[[], Array]:
        materials = self.sets[target]
        known, new = ([materials[i] for i in rows] for rows in (training, test))
        values = values_of(known, SOURCES[target])

        def columns(backbone: Backbone) -> tuple[Features, Features]:
            return Features.of(backbone, known), Features.of(backbone, new)

        def process(backbone: Backbone) -> Array:
            a, b = columns(backbone)
            return gaussian_process(a, values, b, draw)[0]

        def forest(backbone: Backbone, *, statistics: bool) -> Array:
            a, b = columns(backbone)
            if statistics:
                a, b = a.statistics, b.statistics
            return trees("extra_trees", a, values, b, draw)

        def ensemble() -> Array:
            ensembles = self._ensembles_of(self._all_but(target))
            try:
                fitted = ensembles.trained(known, SOURCES[target], draw)
            except TooFewLabelsError:  # of ten band gaps nine may be zero
                return np.full(len(new), np.median(values))
            return ensembles.predict(fitted, new)

        def network(start: Backbone, keep: Keep) -> Array:
            s = self.settings
            epochs = s.epochs[s.labels.index(len(known))]
            batch = 16 if len(known) <= 100 else 32
            stage = small_stage(
                SOURCES[target], name="target", epochs=epochs, seed=draw, keep=keep,
                schedule={"batch_size": batch},
            )  # fmt: skip
            return fine_tuned(stage, start, known, new)

        return {
            "constant": lambda: np.full(len(new), np.median(values)),
            "extra-trees": lambda: forest(self.scratch, statistics=True),
            "scratch": lambda: network(self.scratch, "body"),
            "pair-wise": lambda: network(self._one(), "body"),
            "pair-wise GP": lambda: process(self._one()),
            "multi-property": lambda: network(self._all_but(target), "trunk"),
            "multi-property trees": lambda: forest(self._all_but(target), statistics=False),
            "multi-property GP": lambda: process(self._all_but(target)),
            "ours": ensemble,
        }[method]

    def _ensembles_of(self, backbone: Backbone) -> Ensembles:
        if backbone.name not in self._ensembles:
            self._ensembles[backbone.name] = Ensembles(backbone, self.work / "features")
        return self._ensembles[backbone.name]

    def _one(self) -> Backbone:
        return self._pretrained("one", (PAIRWISE_SOURCE,))

    def _all_but(self, target: str) -> Backbone:
        """Backbone that has learned every property but this one."""
        backbone = self._pretrained(f"all-but-{target}", [r for r in (PAIRWISE_SOURCE, *TARGETS) if r != target])
        check_unseen(backbone, self.sets[target], SOURCES[target])
        return backbone

    def _pretrained(self, name: str, roles: Sequence[str]) -> Backbone:
        from engine.learning.networks.schedule import Schedule
        from engine.learning.pretraining.stage import Stage
        from engine.learning.pretraining.tasks import DataSet, PropertyTask, merge_copies

        if name not in self._backbones:
            tasks = tuple(PropertyTask(SOURCES[r].property, SOURCES[r].scale) for r in roles)
            wanted = {task.name for task in tasks}
            materials = merge_copies(_only(m, wanted) for role in roles for m in self.sets[role])
            stage = Stage(
                name=name,
                data="rows",
                tasks=tasks,
                schedule=Schedule(self.settings.pretraining_epochs, validation_fraction=0.05),
                held_out_fraction=0.05,
                min_labels=2,
            )
            rows = DataSet(materials)
            self._backbones[name] = pretrained(self.work / "backbones", stage, self.scratch, rows, self.say)
        return self._backbones[name]

    @property
    def _fingerprint(self) -> str:
        from engine.learning.pretraining.tasks import materials_hash

        return digest({name: materials_hash(found) for name, found in self.sets.items()})

    def result(self, rows: Sequence[PropertiesRow]) -> Result:
        """Tables and facts of all cells."""
        s = self.settings
        facts = {
            "rows": {name: len(found) for name, found in self.sets.items()},
            "pretraining": {n: b.card["held_out"] for n, b in self._backbones.items()},
            "mae_cut_against_scratch": _cuts(rows, s, STUDIES[self.name]),
            "best_by_spearman": _best(rows, s, STUDIES[self.name]),
        }
        reductions = [
            f"Crystals of at most {s.max_sites} sites ({', '.join(f'{len(m)} {n}' for n, m in self.sets.items())}); "
            f"{s.draws} draws (seeds 0, 1, ...) of up to {max(s.labels)} labels, {s.test_rows} test rows "
            f"{_TESTED[s.split]}.",
            "MEGNet with layers half as wide as MatGL's own for every network here; "
            f"{s.pretraining_epochs} epochs of pre-training; "
            f"{', '.join(f'{e} for {n}' for n, e in zip(s.labels, s.epochs, strict=True))} labels, scratch and "
            "transfer alike; 15 % of the labels choose the epoch.",
            "The backbone of a target has learned formation energy, AGL kappa, phonon peak, shear modulus and band gap "
            "without the target: none of its labels, of any crystal. Labels of other properties of test crystals may "
            "have been seen.",
        ]
        name = self.name if s.split == "formula" else f"{self.name}-{s.split}"
        return Result(name, rows, _tables(self.name, rows, s), facts, asdict(s), self.cells.seconds, reductions)


def _only(material: Material, properties: set[str]) -> Material:
    """Leave only these properties, so that no other can be learned."""
    from dataclasses import replace

    return replace(material, properties={k: v for k, v in material.properties.items() if k in properties})


def _figures(rows: Sequence[PropertiesRow], target: str, method: str, n: int, figure: Figure) -> list[float | None]:
    return [r[figure] for r in rows if r["target"] == target and r["method"] == method and r["n"] == n]


def _mean(values: Sequence[float | None]) -> float:
    mean = mean_of(values)
    return np.nan if mean is None else mean


def _cuts(
    rows: Sequence[PropertiesRow], s: PropertiesSettings, methods: Sequence[str]
) -> dict[str, dict[str, list[float]]]:
    """One less the ratio of mean MAE to that of scratch, by target, method and number of labels."""
    return {
        target: {
            method: [
                1 - _mean(_figures(rows, target, method, n, "mae")) / _mean(_figures(rows, target, "scratch", n, "mae"))
                for n in s.labels
            ]
            for method in methods
            if method != "scratch"
        }
        for target in s.targets
    }


def _best(rows: Sequence[PropertiesRow], s: PropertiesSettings, methods: Sequence[str]) -> dict[str, dict[int, str]]:
    """Find the method with the highest mean Spearman, by target and number of labels."""
    ranked = [m for m in methods if m != "constant"]
    return {
        t: {
            n: max(ranked, key=lambda m: np.nan_to_num(_mean(_figures(rows, t, m, n, "spearman")), nan=-2))
            for n in s.labels
        }
        for t in s.targets
    }


def _tables(name: str, rows: Sequence[PropertiesRow], s: PropertiesSettings) -> str:
    methods = STUDIES[name]
    head = ["method", *(f"N = {n}" for n in s.labels)]
    sections = ["Mean (standard deviation) over draws; a figure in bold is the best of its column.\n"]
    titles: dict[Figure, str] = {"mae": "MAE", "r2": "R2", "spearman": "Spearman"}
    for target in s.targets:
        scale = "log10 kappa" if SOURCES[target].scale == "log10" else "scaled to [-1, 1] by its authors"
        sections.append(f"## {target} ({scale})\n")
        for figure, title in titles.items():
            table = {m: [_figures(rows, target, m, n, figure) for n in s.labels] for m in methods}
            sign = 1 if figure == "mae" else -1
            best = [
                min(methods, key=lambda m: np.nan_to_num(sign * _mean(table[m][k]), nan=np.inf))
                for k in range(len(s.labels))
            ]
            body = [
                [m, *(f"**{mean_std(v)}**" if best[k] == m else mean_std(v) for k, v in enumerate(table[m]))]
                for m in methods
            ]
            sections.append(markdown(body, [f"{title}, {head[0]}", *head[1:]]))
    cuts = _cuts(rows, s, methods)
    body = [
        [m, *(f"{100 * float(np.mean([cuts[t][m][k] for t in s.targets])):.0f} %" for k in range(len(s.labels)))]
        for m in methods
        if m != "scratch"
    ]
    sections.append(f"## MAE cut against scratch, mean of the targets\n\n{markdown(body, head)}")
    sections.append(f"Published: {_PUBLISHED[name]}.\n")
    return "\n".join(
        [*sections, _verdict(rows, s, methods), "## Methods\n", *(f"- {m}: {METHODS[m]}" for m in methods)]
    )


def _verdict(rows: Sequence[PropertiesRow], s: PropertiesSettings, methods: Sequence[str]) -> str:
    """Where trees on statistics win: by mean Spearman and MAE, over every transferred method."""
    own = [m for m in methods if m not in ("constant", "extra-trees", "scratch")]
    body = []
    for target in s.targets:
        for n in s.labels:
            spearman = {m: _mean(_figures(rows, target, m, n, "spearman")) for m in methods if m != "constant"}
            floor = np.nanmax([spearman["extra-trees"], np.nan_to_num(spearman["scratch"], nan=-1)])
            best = max(own, key=lambda m: np.nan_to_num(spearman[m], nan=-2))
            body.append(
                [target, str(n), best, short(spearman[best]), short(float(floor)), f"{spearman[best] - floor:+.3f}"]
            )
    head = ["target", "N", "best transferred method", "Spearman", "best of scratch and trees", "gain"]
    return f"## Ranking: transfer against the best of scratch and trees\n\n{markdown(body, head)}"
