"""Fidelities of one property, AGL and first principles: learning curves, and what a cheap label is worth.

After Hoffmann, Schmidt, Botti and Marques, Digital Discovery (2023), arXiv 2303.03000: error against the number of
target labels and of pre-training rows is a straight line on log-log axes. The rate of exchange follows from both: along
``log e = a - b log n - c log m`` an expensive label is worth ``(b / n) / (c / m)`` cheap ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from campaigns.exceptions import CampaignError
from campaigns.studies.data import SOURCES, Say, check_unseen, random_splits, read_sources, values_of
from campaigns.studies.learning_curves import CurveRow, Exchange, PowerLaw, Surface, exchange, power_law, surface
from campaigns.studies.models import (
    Features,
    fine_tuned,
    gaussian_process,
    predict,
    pretrained,
    small_stage,
    straight_line,
    trees,
)
from campaigns.studies.results import Cells, Figure, Result, digest, judge, markdown, mean_std, short

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.learning.backbones.backbone import Backbone
    from engine.learning.heads.multifidelity import MultiFidelityHead
    from engine.materials.crystal import Material

    Array = NDArray[np.float64]

Value = TypeVar("Value", float, float | None)
NAME = "fidelity"
METHODS = {
    "extra-trees": "300 trees on crystal statistics, no AGL",
    "scratch": "network from scratch on the target labels, no AGL",
    "network": "shipped backbone -> m AGL labels -> n target labels, everything trained, the head kept",
    "network, output only": "the same, but only the trunk and head learn the target labels (Hoffmann's other variant)",
    "line": "straight line through the AGL prediction of the network pre-trained on m labels",
    "gp": "Gaussian process on the shipped embedding; with m > 0 its mean is a line through that AGL prediction "
    "(two-fidelity process of Kennedy and O'Hagan 2000, the low fidelity given by the network)",
    "joint gp": "Gaussian process over both fidelities on the shipped embedding, m AGL and n target labels conditioned "
    "on together, no network trained",
}
WITH_AGL = ("line", "joint gp")
WITHOUT_AGL = ("extra-trees", "scratch")
_TITLES: dict[Figure, str] = {"mae": "MAE in log10 kappa", "spearman": "Spearman"}


@dataclass(frozen=True)
class FidelitySettings:
    """All that decides the study besides data and backbones."""

    target_labels: tuple[int, ...] = (8, 15, 30, 60, 100, 150)
    agl_labels: tuple[int, ...] = (0, 100, 300, 1000, 3000)
    draws: int = 5
    """Of target labels and test rows."""
    agl_draws: int = 2
    """Of AGL labels; draw ``k`` of the target labels goes with draw ``k mod agl_draws``."""
    agl_epochs: int = 10
    """With 1,000 labels or more; with fewer as many steps as 500 labels would give."""
    scratch_epochs: int = 50
    transfer_epochs: int = 25
    training_sites: int = 20
    """Largest AGL crystals."""
    body: Mapping[str, object] = field(default_factory=dict)
    """Sizes of MEGNet from scratch; MatGL's own if not given."""


QUICK = FidelitySettings((10, 30, 100), (0, 100, 600), 3, 1, 6, 20, 10, 15)


def run(data: Path, work: Path, say: Say, settings: FidelitySettings | None = None, start: str = "") -> Result:
    """Run the study on the files in ``data``, going on from what is in ``work``.

    ``start`` is a backbone that has seen no conductivity, in place of the shipped one.
    """
    study = _Study(settings or FidelitySettings(), data, work, say, start)
    return study.result(study.rows())


class _Study:
    def __init__(self, settings: FidelitySettings, data: Path, work: Path, say: Say, start: str):
        from engine.learning.backbones.backbone import DEFAULT_BACKBONE
        from engine.learning.ensemble.storage import load_start
        from engine.learning.pretraining.scratch import scratch_backbone

        self.start = load_start(start or DEFAULT_BACKBONE)
        found = read_sources(data, ("agl", "L96", "HH143"), say)
        self.settings, self.work, self.say = settings, work, say
        self.materials: list[Material] = [*found["L96"], *found["HH143"]]
        known = {m.formula for m in self.materials}
        self.agl = [m for m in found["agl"] if m.formula not in known and len(m.crystal) <= settings.training_sites]
        self.left_out = sum(m.formula in known for m in found["agl"])
        self._check_sizes()
        self.scratch = scratch_backbone("scratch:megnet", settings.body, 0)
        for role in ("agl", "L96", "HH143"):
            check_unseen(self.start, found[role], SOURCES[role])
        self.values = values_of(self.materials, SOURCES["L96"])
        self.features = Features.of(self.start, self.materials)
        self.cells = Cells(work / "cells", say)
        self._backbones: dict[tuple[int, int], Backbone] = {}
        self._estimates: dict[tuple[int, int], Array] = {}
        self._processes: dict[tuple[int, int], MultiFidelityHead] = {}

    def rows(self) -> list[CurveRow]:
        """Figures of every cell."""
        found: list[CurveRow] = []
        for draw, (training, test) in enumerate(random_splits(len(self.materials), self.settings.draws)):
            for m in self.settings.agl_labels:
                for n in self.settings.target_labels:
                    for method in METHODS:
                        if method in (WITHOUT_AGL if m else WITH_AGL):
                            continue
                        predicted = self._cell(method, draw, training[:n], test, m)
                        figures = judge(self.values[test], predicted, "log10")
                        found.append({"method": method, "draw": draw, "n": n, "m": m, **figures})
        return found

    def _cell(self, method: str, draw: int, training: NDArray[np.int64], test: NDArray[np.int64], m: int) -> Array:
        settings = {
            "study": NAME, "method": method, "n": len(training), "m": m, "draw": draw, "all": self._for_cells,
            "data": self._fingerprint, "start": self.start.sha256,
        }  # fmt: skip
        return self.cells.predicted(settings, self._compute(method, draw, training, test, m))

    def _compute(
        self, method: str, draw: int, training: NDArray[np.int64], test: NDArray[np.int64], m: int
    ) -> Callable[[], Array]:
        values = self.values[training]
        columns, new = self.features[training], self.features[test]

        def process() -> Array:
            estimate = self._estimate(m, draw) if m else None
            lines = None if estimate is None else (estimate[training], estimate[test])
            return gaussian_process(columns, values, new, draw, lines)[0]

        def line() -> Array:
            estimate = self._estimate(m, draw)
            return straight_line(estimate[training], estimate[test], values)[1]

        return {
            "extra-trees": lambda: trees("extra_trees", columns.statistics, values, new.statistics, draw),
            "scratch": lambda: self._network(self.scratch, draw, training, test, "full"),
            "network": lambda: self._network(self._pretrained(m, draw), draw, training, test, "full"),
            "network, output only": lambda: self._network(self._pretrained(m, draw), draw, training, test, "frozen"),
            "line": line,
            "gp": process,
            "joint gp": lambda: (
                self._agl_process(m, draw).above("dft", columns.values, values, draw).predict(new.values)[0]
            ),
        }[method]

    def _network(
        self, start: Backbone, draw: int, training: NDArray[np.int64], test: NDArray[np.int64], strategy: str
    ) -> Array:
        scratch = start is self.scratch
        stage = small_stage(
            SOURCES["L96"],
            name="target",
            epochs=self.settings.scratch_epochs if scratch else self.settings.transfer_epochs,
            seed=draw,
            keep="heads" if start.network.properties == (SOURCES["agl"].property,) else "body" if scratch else "trunk",
            strategy=strategy,
            schedule={"learning_rate": 1e-3 if scratch else 5e-4},
        )
        return fine_tuned(stage, start, [self.materials[i] for i in training], [self.materials[i] for i in test])

    def _pretrained(self, m: int, draw: int) -> Backbone:
        """Backbone that has learned ``m`` AGL labels."""
        from engine.learning.pretraining.tasks import DataSet

        if m == 0:
            return self.start
        seed = draw % self.settings.agl_draws
        if (m, seed) not in self._backbones:
            epochs = round(self.settings.agl_epochs * max(1.0, min(500 / m, 3.0)))
            stage = small_stage(
                SOURCES["agl"],
                name=f"agl-{m}-{seed}",
                epochs=epochs,
                seed=seed,
                keep="trunk" if self.start.network.trunk_size else "body",
                schedule={"batch_size": 64 if m >= 1000 else 16},
            )
            rows = DataSet(self._agl_rows(m, seed))
            self._backbones[m, seed] = pretrained(self.work / "backbones", stage, self.start, rows, self.say)
        return self._backbones[m, seed]

    def _estimate(self, m: int, draw: int) -> Array:
        """AGL conductivity of all crystals as predicted after ``m`` labels."""
        key = (m, draw % self.settings.agl_draws)
        if key not in self._estimates:
            self._estimates[key] = predict(self._pretrained(m, draw), self.materials)
        return self._estimates[key]

    def _agl_process(self, m: int, draw: int) -> MultiFidelityHead:
        """Gaussian process on ``m`` AGL labels, for the target to be learned on top."""
        from engine.learning.heads.gp import GaussianProcessHead
        from engine.learning.heads.multifidelity import MultiFidelityHead

        key = (m, draw % self.settings.agl_draws)
        if key not in self._processes:
            rows = self._agl_rows(*key)
            features = Features.of(self.start, rows)
            head = GaussianProcessHead.fit(
                features.values, values_of(rows, SOURCES["agl"]), features.groups, key[1], features.column_statistics
            )
            self._processes[key] = MultiFidelityHead.of(head, "agl")
        return self._processes[key]

    def _agl_rows(self, m: int, seed: int) -> list[Material]:
        """Draw ``m`` AGL crystals; those of a smaller ``m`` are among those of a larger one."""
        return [self.agl[i] for i in np.random.default_rng(1000 + seed).permutation(len(self.agl))[:m]]

    @property
    def _for_cells(self) -> dict[str, object]:
        """Settings that decide a cell; the lists of sizes only say which cells there are."""
        lists = ("target_labels", "agl_labels", "draws")
        return {name: value for name, value in asdict(self.settings).items() if name not in lists}

    @property
    def _fingerprint(self) -> str:
        from engine.learning.pretraining.tasks import materials_hash

        return digest(materials_hash(self.materials), materials_hash(self.agl))

    def _check_sizes(self) -> None:
        most = len(self.materials) - max(1, round(0.2 * len(self.materials)))
        for asked, there, what in (
            (max(self.settings.target_labels), most, "training rows of the first-principles sets"),
            (max(self.settings.agl_labels), len(self.agl), "AGL crystals of other compounds"),
        ):
            if asked > there:
                raise CampaignError(f"the study asks for {asked} {what}, there are {there}; add data or use --quick")

    def result(self, rows: Sequence[CurveRow]) -> Result:
        """Curves, fits and rates of exchange."""
        s = self.settings
        most = max(s.agl_labels)
        target_fits = {
            f"{method}, m = {m}": power_law([r for r in rows if r["method"] == method and r["m"] == m], "n")
            for method in METHODS
            for m in (0, most)
            if any(r["method"] == method and r["m"] == m for r in rows)
        }
        agl_fits = {
            f"{method}, n = {n}": power_law([r for r in rows if r["method"] == method and r["n"] == n], "m")
            for method in METHODS
            if method not in WITHOUT_AGL
            for n in s.target_labels
        }
        rates = {method: exchange(rows, method) for method in ("network", "gp", "joint gp")}
        planes = {method: surface(rows, method) for method in ("network", "network, output only", "gp", "joint gp")}
        facts = {
            "rows": len(self.materials),
            "agl_rows": len(self.agl),
            "agl_crystals_of_the_same_compounds_left_out": self.left_out,
            "fits_against_target_labels": target_fits,
            "fits_against_agl_labels": agl_fits,
            "surface": planes,
            "exchange": rates,
            "start": {"name": self.start.name, "sha256": self.start.sha256},
        }
        reductions = [
            f"Target: first-principles kappa of L96 and HH143 together, {len(self.materials)} crystals; {s.draws} "
            "random 80/20 splits (seeds 0, 1, ...), the first n training rows of each; 15 % of them choose the epoch.",
            f"AGL: {len(self.agl)} crystals of at most {s.training_sites} sites; {self.left_out} of the same compounds "
            f"as a target crystal are left out; {s.agl_draws} draws of m of them.",
            f"Start: {self.start.name}, which has seen no conductivity; epochs {s.agl_epochs} (AGL; up to three times "
            f"as many below 500 labels), {s.transfer_epochs} (transfer), {s.scratch_epochs} (scratch).",
        ]
        tables = _tables(rows, s, target_fits, agl_fits, planes, rates)
        return Result(NAME, rows, tables, facts, asdict(s), self.cells.seconds, reductions)


def _tables(
    rows: Sequence[CurveRow],
    settings: FidelitySettings,
    target_fits: Mapping[str, PowerLaw],
    agl_fits: Mapping[str, PowerLaw],
    planes: Mapping[str, Surface],
    rates: Mapping[str, Sequence[Exchange]],
) -> str:
    sizes, counts = settings.target_labels, settings.agl_labels
    sections = []
    for figure, title in _TITLES.items():
        body = []
        for method in METHODS:
            for m in counts:
                cells = [
                    [r[figure] for r in rows if r["method"] == method and r["m"] == m and r["n"] == n] for n in sizes
                ]
                if any(cells):
                    body.append([method, str(m), *(mean_std(c) for c in cells)])
        head = ["method", "AGL labels m", *(f"n = {n}" for n in sizes)]
        sections.append(f"## {title} by target labels n\n\n{markdown(body, head)}")
    body = [[name, short(f["slope"]), _interval(f["interval"], short)] for name, f in target_fits.items()]
    sections.append(
        "## Slopes of log10 MAE against log10 n\n\n" + markdown(body, ["curve", "slope", "90 % interval over draws"])
    )
    body = [[name, short(f["slope"]), _interval(f["interval"], short)] for name, f in agl_fits.items()]
    sections.append(
        "## Slopes of log10 MAE against log10 m (m > 0)\n\n"
        + markdown(body, ["curve", "slope", "90 % interval over draws"])
    )
    body = [
        [
            method, f"{short(f['b'])} {_interval(f['b_interval'], short)}",
            f"{short(f['c'])} {_interval(f['c_interval'], short)}",
            f"n = {f['at']['n']}, m = {f['at']['m']}", _count(f["agl_labels_for_one_target_label"]),
            _interval(f["interval"], _count),
        ]
        for method, f in planes.items()
    ]  # fmt: skip
    head = ["method", "b (of n)", "c (of m)", "at", "AGL labels worth one first-principles label", "90 % interval"]
    sections.append(f"## How many AGL labels buy one first-principles label: the next one\n\n{markdown(body, head)}")
    body = [
        [
            method, str(row["n"]), str(row["m"]), f"{row['labels_saved']:.0f}",
            _interval(row["interval"], lambda v: f"{v:.0f}"), _count(row["agl_labels_for_one"]),
            _interval(row["agl_interval"], _count),
        ]
        for method, found in rates.items()
        for row in found
    ]  # fmt: skip
    head = ["method", "n", "m", "labels saved", "90 % interval", "AGL labels for one", "90 % interval"]
    sections.append(
        "## How many AGL labels buy one first-principles label: all of them\n\nLabels saved: with n target labels and "
        "m AGL labels the error is that of n + saved target labels without AGL (the curve at m = 0, continued to at "
        f"most ten times its last point where needed). A dash: no number of them would do.\n\n{markdown(body, head)}"
    )
    return "\n".join([*sections, "## Methods\n", *(f"- {m}: {words}" for m, words in METHODS.items())])


def _interval(values: Sequence[Value], write: Callable[[Value], str]) -> str:
    return f"[{', '.join(write(v) for v in values)}]"


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
