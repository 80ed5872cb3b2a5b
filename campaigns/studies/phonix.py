"""First-principles conductivities on the published splits of the Phonix leaderboard (arXiv 2605.11610; 2026).

The product's ensemble without fine-tuned networks beside a constant, the lowest training value, a ridge fit, trees and
a plain Gaussian process on the same embedding. Test rows are those of the published test sets that the file has (field
``published_test_sets``); training rows are all others of the file, far fewer than in the source.

Below the range of the training values the constant "lowest training value" has a smaller error than any published
model, so that the ``low`` set is judged by rank correlation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from campaigns.exceptions import CampaignError
from campaigns.studies.data import SOURCES, Say, check_unseen, read_sources, values_of
from campaigns.studies.models import Ensembles
from campaigns.studies.results import Cells, Result, digest, markdown, mean_of
from engine.metrics.accuracy import accuracy
from engine.metrics.calibration import Z90
from engine.metrics.splits import SplitSettings, split_materials

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.materials.crystal import Material

    Array = NDArray[np.float64]
    Rows = NDArray[np.int64]

NAME = "phonix"
BACKBONES = ("megnet-multiproperty-agl", "megnet-taught")
"""Of the shipped model of first-principles conductivity; they have learned AGL values, and none of these."""
FIELD = "published_test_sets"
PUBLISHED_SETS = ("random", "space_group", "low")
SETS = {
    "random": "published random test set",
    "space_group": "published test set of unseen space groups",
    "low": "published test set of values below 1 W/(m K), training values above",
    "formula": "a third of the reduced formulas, not published",
}
METHODS = {
    "constant": "mean of the training labels",
    "lowest training value": "a constant; no interval",
    "ridge": "linear, penalty by leave-one-out error, on the embedding",
    "trees on statistics": "extra-trees on statistics of composition, cell and bonds",
    "trees": "extra-trees on the embedding",
    "plain GP": "Gaussian process with one length scale of a Matern 5/2 kernel on the embedding, the peer `gp` of "
    "backtests",
    "ours": "the product's ensemble of Gaussian processes and trees on the embedding, no network fine-tuned",
}
SEEDED = ("trees on statistics", "trees", "ours")
"""Methods with randomness."""
SOURCE = "arXiv 2605.11610"
PUBLISHED_SIZES = {"random": (5563, 1403), "space_group": (5573, 1393), "low": (5042, 1924)}
"""Training and test rows; the training values of ``low`` lie above 0.8 W/(m K)."""
PUBLISHED: dict[str, tuple[float | None, float | None, float | None]] = {
    "Orb embedding + TabPFN": (0.378, 0.494, 1.764),
    "ALiEGNN": (0.379, 0.512, 1.245),
    "HackNIP (Orb + MODNet)": (0.380, 0.501, 1.516),
    "Orb embedding + CNN": (0.420, 0.509, 1.386),
    "MLP on hand-made features": (0.431, 0.627, 1.454),
    "XGBoost on hand-made features": (0.444, 0.540, 1.610),
    "MACE + MLP": (0.445, 0.602, 1.484),
    "CGCNN": (0.523, 0.652, 1.294),
    "CrabNet": (0.523, 0.674, 1.422),
    "eqV2 with matching-based extrapolation": (None, None, 0.997),
}
"""MAE in ln kappa by published model, for each of :data:`PUBLISHED_SETS`."""
PUBLISHED_R2 = {"Orb embedding + TabPFN": 0.758, "ALiEGNN": 0.784}
"""On the random set."""
PUBLISHED_LOWEST = 0.57
"""MAE in ln kappa of the lowest training value on the published ``low`` set."""
_FEWEST = 10
"""Rows that each side of a split needs."""
_SMALLEST_SPREAD = 1e-6


@dataclass(frozen=True)
class Settings:
    """All that decides the study besides data and backbones."""

    seeds: int = 5
    """Of the methods with randomness."""
    trees: int = 300
    max_rows: int | None = None
    """Crystals, chosen at random; all if not given."""
    sets: tuple[str, ...] = tuple(SETS)


QUICK = Settings(seeds=2, trees=100, max_rows=500)


def run(data: Path, work: Path, say: Say, settings: Settings | None = None, start: str = "") -> Result:
    """Run the study on the file in ``data``, going on from what is in ``work``.

    ``start`` is a backbone that has seen none of these conductivities, in place of those of the shipped model.

    Raises
    ------
    CampaignError
        If the file names no published test sets, one of them leaves fewer than 10 rows on a side, or the backbone has
        seen the answers.
    """
    study = _Study(settings or Settings(), data, work, say, start)
    return study.result([row for name in study.settings.sets for row in study.rows(name)])


@dataclass(frozen=True, eq=False)
class _Part:
    """One split: what is known, and the rows to predict."""

    name: str
    training: Rows
    test: Rows


class _Study:
    """Crystals, their embedding, and cells."""

    def __init__(self, settings: Settings, data: Path, work: Path, say: Say, start: str):
        from engine.learning.ensemble.storage import load_starts

        self.settings, self.source, self.start = settings, SOURCES[NAME], start
        self.backbone = load_starts(start or BACKBONES)
        found = read_sources(data, [NAME], say, max_sites=None)[NAME]
        if settings.max_rows:
            chosen = np.random.default_rng(0).permutation(len(found))[: settings.max_rows]
            found = [found[row] for row in sorted(chosen)]
        self.materials: list[Material] = found
        self.values = values_of(found, self.source)
        check_unseen(self.backbone, found, self.source)
        self.parts = {name: self._part(name) for name in settings.sets}
        self.ensembles = Ensembles(self.backbone, work / "features")
        self.cells = Cells(work / "cells", say)

    def rows(self, name: str) -> list[dict[str, object]]:
        """Figures of every method and seed on one test set."""
        part = self.parts[name]
        sizes = {"training": len(part.training), "test": len(part.test)}
        return [
            {"test_set": name, "method": method, "draw": seed, **sizes, **self._figures(method, part, seed)}
            for method in METHODS
            for seed in range(self.settings.seeds if method in SEEDED else 1)
        ]

    def _part(self, name: str) -> _Part:
        if name == "formula":
            split = split_materials(SplitSettings("formula", share=1 / 3), self.materials, self.values)
            return _Part(name, split.training, split.test)
        named = [str(m.properties.get(FIELD) or "").split(",") for m in self.materials]
        test = np.array([name in sets for sets in named])
        part = _Part(name, np.flatnonzero(~test), np.flatnonzero(test))
        if min(len(part.training), len(part.test)) < _FEWEST:
            raise CampaignError(
                f"field {FIELD!r} puts {len(part.test)} of {len(test)} crystals into the published test set {name!r}, "
                f"and leaves {len(part.training)} to train on; {_FEWEST} are needed on each side: give the file of "
                f"{self.source.what} with that field"
            )
        return part

    def _figures(self, method: str, part: _Part, seed: int) -> dict[str, float | None]:
        """Errors in ln kappa; coverage where the method has intervals."""
        settings = {
            "study": NAME, "set": part.name, "method": method, "draw": seed, "trees": self.settings.trees,
            "data": self._fingerprint, "backbone": self.backbone.sha256,
        }  # fmt: skip
        compute = self._compute(method, part, seed)
        mean, std = self.cells.predicted(settings, lambda: np.concatenate(compute())).reshape(2, -1)
        true = self.values[part.test]
        found = accuracy(true, mean, scale="linear")
        return {
            "mae_ln": float(found.mae * np.log(10)),
            "r2": found.r2,
            "spearman": found.spearman,
            "coverage_90": float((np.abs(true - mean) <= Z90 * std).mean()) if std.any() else None,
        }

    def _compute(self, method: str, part: _Part, seed: int) -> Callable[[], tuple[Array, Array]]:
        """Means and standard deviations (n each, log10 kappa) of the test rows; a spread of 0 is none."""
        known, level = self.values[part.training], np.ones(len(part.test))
        n_trees = self.settings.trees
        return {
            "constant": lambda: (known.mean() * level, known.std() * level),
            "lowest training value": lambda: (known.min() * level, 0.0 * level),
            "ridge": lambda: _ridge(self.embedding, known, part),
            "trees on statistics": lambda: _trees(self.statistics, known, part, n_trees, seed),
            "trees": lambda: _trees(self.embedding, known, part, n_trees, seed),
            "plain GP": lambda: _plain_process(self.embedding, known, part),
            "ours": lambda: self._ours(part, seed),
        }[method]

    def _ours(self, part: _Part, seed: int) -> tuple[Array, Array]:
        training, test = ([self.materials[row] for row in rows] for rows in (part.training, part.test))
        fitted = self.ensembles.trained(training, self.source, seed)
        return self.ensembles.distribution(fitted, test)

    @cached_property
    def embedding(self) -> Array:
        """Of every crystal, N x d."""
        return self.ensembles.embeddings(self.materials).astype(np.float64)

    @property
    def statistics(self) -> Array:
        """Columns that are known without learning, N x 88."""
        from engine.learning.features.statistics import STATISTICS

        return self.embedding[:, : len(STATISTICS)]

    @cached_property
    def _fingerprint(self) -> str:
        from engine.learning.pretraining.tasks import materials_hash

        return digest(materials_hash(self.materials))

    def result(self, rows: Sequence[Mapping[str, object]]) -> Result:
        """Tables and facts of all cells."""
        s, n = self.settings, len(self.materials)
        sizes = {name: (len(part.training), len(part.test)) for name, part in self.parts.items()}
        shared = [
            f"{name} {sizes[name][1]:,} of {PUBLISHED_SIZES[name][1]:,} test rows and {sizes[name][0]:,} training rows "
            f"of {PUBLISHED_SIZES[name][0]:,}"
            for name in PUBLISHED_SETS
            if name in sizes
        ]
        reductions = [
            f"{n:,} crystals{' chosen at random (--quick)' if s.max_rows else ''}; {'; '.join(shared)}.",
            "Training rows are the crystals outside the test set. Every crystal of the shared file is in one of the "
            "published test sets, so that low values are over-represented, and rows differ from those of the source: "
            "compare methods within a table, and with the published figures by order of magnitude.",
            f"Seeds 0 to {s.seeds - 1} of the methods with randomness ({', '.join(SEEDED)}); no label is left out.",
            f"Embedding of {self.backbone.name}, which has seen no first-principles conductivity of these crystals.",
        ]
        facts = {"rows": n, "sizes": sizes, "published_sizes": PUBLISHED_SIZES, "published": PUBLISHED}
        return Result(NAME, rows, _tables(rows, sizes), facts, asdict(s), self.cells.seconds, reductions)


def _ridge(x: Array, known: Array, part: _Part) -> tuple[Array, Array]:
    """Linear fit on standardised columns; its spread is the leave-one-out error at the penalty that was chosen."""
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(x[part.training])
    fitted = RidgeCV(np.logspace(-1, 5, 13)).fit(scaler.transform(x[part.training]), known)
    std = np.sqrt(max(-float(fitted.best_score_), _SMALLEST_SPREAD**2))
    return fitted.predict(scaler.transform(x[part.test])), np.full(len(part.test), std)


def _trees(x: Array, known: Array, part: _Part, trees: int, seed: int) -> tuple[Array, Array]:
    """Mean and standard deviation over extra-trees."""
    from sklearn.ensemble import ExtraTreesRegressor

    columns = x.astype(np.float32)
    forest = ExtraTreesRegressor(trees, max_features=0.5, random_state=seed, n_jobs=1)
    forest.fit(columns[part.training], known)
    predicted = np.stack([tree.predict(columns[part.test]) for tree in forest.estimators_])
    return predicted.mean(0), np.maximum(predicted.std(0), _SMALLEST_SPREAD)


def _plain_process(x: Array, known: Array, part: _Part) -> tuple[Array, Array]:
    from campaigns.backtest.peers import GaussianProcess

    return GaussianProcess(x).predict(part.training.tolist(), known, part.test.tolist())


def _tables(rows: Sequence[Mapping[str, object]], sizes: Mapping[str, tuple[int, int]]) -> str:
    sections = ["Mean (standard deviation over seeds); errors in ln kappa, kappa in W/(m K).\n"]
    for name, (training, test) in sizes.items():
        body = [
            [method, *(_cell(rows, name, method, figure) for figure in ("mae_ln", "r2", "spearman", "coverage_90"))]
            for method in METHODS
        ]
        head = ["method", "MAE", "R2", "Spearman", "in 90 % intervals"]
        note = f"{training:,} training rows, {test:,} test rows."
        if name in PUBLISHED_SETS:
            body += _published(name)
            sources = " and ".join(f"{size:,}" for size in PUBLISHED_SIZES[name])
            note += f" Published figures ({SOURCE}): {sources}."
        if name == "low":
            note += (
                " Judge this set by rank: a constant, the lowest training value, has a smaller MAE "
                f"({PUBLISHED_LOWEST:.2f} on the published split) than every published model."
            )
        sections.append(f"## {name}: {SETS[name]}\n\n{note}\n\n{markdown(body, head)}")
    return "\n".join([*sections, "## Methods\n", *(f"- {m}: {words}" for m, words in METHODS.items())])


def _published(name: str) -> list[list[str]]:
    """Rows of the published models on a test set, the best first."""
    column = PUBLISHED_SETS.index(name)
    errors = {model: row[column] for model, row in PUBLISHED.items()}
    known = sorted((error, model) for model, error in errors.items() if error is not None)
    r2 = {m: f"{value:.3f}" for m, value in PUBLISHED_R2.items()} if name == "random" else {}
    return [[f"published: {model}", f"{error:.3f}", r2.get(model, "-"), "-", "-"] for error, model in known]


def _cell(rows: Sequence[Mapping[str, object]], name: str, method: str, figure: str) -> str:
    """Mean over seeds, and its standard deviation where there is more than one."""
    own = [row[figure] for row in rows if row["test_set"] == name and row["method"] == method]
    values = [float(value) for value in own if isinstance(value, float)]
    mean = mean_of(values)
    if mean is None:
        return "-"
    return f"{mean:.3f} ({np.std(values, ddof=1):.3f})" if len(values) > 1 else f"{mean:.3f}"
