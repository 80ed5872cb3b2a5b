"""What the studies share: data by name, resumable cells, training and prediction of a stage, trees, tables."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from campaigns.exceptions import CampaignError
from campaigns.files import write_whole
from engine.materials.crystal import Material
from engine.metrics.accuracy import accuracy
from engine.metrics.discovery import top_rows
from engine.metrics.splits import Split, SplitSettings, split_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.learning.backbones.backbone import Backbone
    from engine.learning.backbones.column_statistics import ColumnStatistics
    from engine.learning.backbones.stack import AnyBackbone
    from engine.learning.ensemble.ensemble import Ensemble
    from engine.learning.heads.gp import GaussianProcessHead
    from engine.learning.pretraining.stage import Stage
    from engine.learning.pretraining.tasks import DataSet

MAX_SITES = 60
"""Crystals with more sites are left out, as in pre-training."""
CODE_VERSION = 3
"""Of what decides a cell; raised when a change of the code changes figures, so that old cells are computed again."""
_PACKAGES = ("kappascout", "torch", "matgl", "gpytorch", "scikit-learn")
_TREES, _TREES_OF_MANY = 300, 100
_MANY = 1000
"""Rows beyond which more trees change nothing but the time."""
FIGURES = ("mae", "mape", "r2", "spearman", "recall_lowest", "mae_ln", "coverage_90")
"""Of cells; see :func:`judge`, and :mod:`campaigns.studies.phonix` for the last two."""
_REPEATS = ("split", "draw")
_LOWEST = 10
"""Percent of the test rows whose recall is reported."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Source:
    """A set of labelled crystals that a study reads."""

    file: str
    """Beginning of the file's name."""
    property: str
    scale: Literal["log10", "linear"]
    what: str


SOURCES = {
    "agl": Source("aflow_agl", "kappa_agl_300K_W_mK", "log10", "AGL conductivities of AFLOW"),
    "L96": Source("ltc_l96", "kappa_300K_W_mK", "log10", "first-principles conductivities, L96"),
    "HH143": Source("ltc_hh143", "kappa_300K_W_mK", "log10", "first-principles conductivities, half-Heuslers"),
    "phonix": Source("ltc_phonix", "kappa_300K_W_mK", "log10", "first-principles conductivities, Phonix"),
    "formation_energy": Source("tl_formation_energy", "formation_energy_scaled", "linear", "formation energies"),
    "band_gap": Source("tl_band_gap", "band_gap_scaled", "linear", "band gaps"),
    "shear_modulus": Source("tl_shear_modulus", "shear_modulus_scaled", "linear", "shear moduli"),
    "phonon_peak": Source("tl_phonon_peak", "phonon_peak_scaled", "linear", "highest phonon peaks"),
}
"""By role. These files are the user's own; no study runs without them."""


def read_sources(
    folder: Path, roles: Sequence[str], say: Say, max_sites: int | None = MAX_SITES
) -> dict[str, list[Material]]:
    """Crystals of at most so many sites with the property of each role, each crystal once, in file order.

    Raises
    ------
    CampaignError
        If a file is missing or holds no label; the message names all that are needed.
    """
    from engine.learning.pretraining.tasks import PropertyTask, learned_values, merge_copies
    from engine.materials.loading import load

    files = _find(folder, roles)
    found = {}
    for role in roles:
        source = SOURCES[role]
        outcomes = [o for part in load(files[role], workers=1, max_sites=max_sites) for o in part]
        materials = merge_copies(o for o in outcomes if isinstance(o, Material))
        values = learned_values(materials, [PropertyTask(source.property, source.scale)])[:, 0]
        found[role] = [m for m, value in zip(materials, values, strict=True) if np.isfinite(value)]
        if not found[role]:
            raise CampaignError(f"{files[role]} has no crystal with {source.property}; check the field's name")
        say(f"{files[role].name}: {len(found[role])} of {len(outcomes)} records usable")
    return found


def values_of(materials: Sequence[Material], source: Source) -> NDArray[np.float64]:
    """Labels (n) in learned units."""
    values = np.array([float(m.properties[source.property]) for m in materials])
    return np.log10(values) if source.scale == "log10" else values


def random_splits(n_rows: int, n_splits: int, test_fraction: float = 0.2) -> Iterator[tuple[NDArray[np.int64], ...]]:
    """Training and test rows of each split; split ``k`` is drawn with seed ``k``."""
    n_test = max(1, round(test_fraction * n_rows))
    for split in range(n_splits):
        order = np.random.default_rng(split).permutation(n_rows)
        yield order[n_test:], order[:n_test]


def split_materials(materials: Sequence[Material], values: NDArray[np.float64], settings: SplitSettings) -> Split:
    """Split crystals by formula, space group or value (n each)."""
    return split_rows(settings, [m.formula for m in materials], [m.spacegroup for m in materials], values)


class Cells:
    """Predictions of a study, each written as it is made and read instead of made again.

    A cell is found by a hash of its settings, which must name all that decides it, and of :data:`CODE_VERSION`.
    """

    def __init__(self, folder: Path, say: Say):
        self._folder, self._say = folder, say
        self._seconds: dict[Path, float] = {}

    @property
    def seconds(self) -> float:
        """Processor time of the cells used, whenever they were made."""
        return sum(self._seconds.values())

    def predicted(
        self, settings: Mapping[str, object], compute: Callable[[], NDArray[np.float64]]
    ) -> NDArray[np.float64]:
        """Predictions (n) of a cell in learned units."""
        words = [str(v) for v in settings.values() if isinstance(v, str | int) and 0 < len(str(v)) <= 30]
        name = re.sub(r"[^\w.-]+", "_", "-".join(words))
        path = self._folder / f"{name}-{digest(settings, CODE_VERSION)[:16]}.json"
        if path.is_file():
            cell = json.loads(path.read_text())
        else:
            began = time.process_time()
            predicted = compute()
            cell = {"settings": settings, "seconds": round(time.process_time() - began, 2)}
            cell["predicted"] = [round(float(p), 6) for p in predicted]
            write_whole(path, json.dumps(cell))
            self._say(f"{name}: {cell['seconds']} s")
        self._seconds[path] = cell["seconds"]
        return np.array(cell["predicted"])


@dataclass(frozen=True)
class Result:
    """What a study found: a row for each cell, tables as Markdown, and how they were made."""

    name: str
    rows: Sequence[Mapping[str, Any]]
    """Of each cell: what it was, and its figures."""
    tables: str
    facts: Mapping[str, object]
    """Rows, overlaps, fits: what is not a figure of one cell."""
    settings: Mapping[str, object]
    seconds: float
    reductions: Sequence[str]
    """What was made smaller than in the source, in words."""

    def summary(self) -> list[dict[str, Any]]:
        """Figures of each kind of cell, averaged over splits or draws."""
        parts: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
        for row in self.rows:
            parts.setdefault(tuple(row[k] for k in row if k not in (*FIGURES, *_REPEATS)), []).append(row)
        return [
            {
                name: mean_of([r[name] for r in part]) if name in FIGURES else value
                for name, value in part[0].items()
                if name not in _REPEATS
            }
            for part in parts.values()
        ]

    def write(self, folder: Path, command: str) -> Path:
        """Write ``NAME.json`` and ``NAME.md``; returns the latter."""
        versions = {package: version(package) for package in _PACKAGES}
        made = {
            "study": self.name,
            "command": command,
            "date": datetime.now(UTC).date().isoformat(),
            "versions": versions,
            "cpu_minutes": round(self.seconds / 60, 1),
            "settings": self.settings,
            "facts": self.facts,
        }
        write_whole(folder / f"{self.name}.json", json.dumps({**made, "rows": self.rows}, default=str) + "\n")
        used = ", ".join(f"{package} {number}" for package, number in versions.items())
        head = [
            f"# Study: {self.name}",
            "",
            f"`{command}`, {made['date']}; {used}; {made['cpu_minutes']} CPU-minutes of one thread.",
            "",
            *(f"- {reduction}" for reduction in self.reductions),
            "",
        ]
        return write_whole(folder / f"{self.name}.md", "\n".join(head) + "\n" + self.tables.strip() + "\n")


def judge(
    true: NDArray[np.float64], predicted: NDArray[np.float64], scale: Literal["log10", "linear"]
) -> dict[str, float | None]:
    """Figures of n test rows in learned units; ``mape`` in true units; recall of the lowest tenth (at least 2)."""
    found = accuracy(true, predicted, scale=scale)
    lowest, guessed = (top_rows(v, "min", percent=_LOWEST, at_least=min(2, len(v))) for v in (true, predicted))
    return {
        "mae": found.mae,
        "mape": found.mape if scale == "log10" else None,
        "r2": found.r2,
        "spearman": found.spearman,
        "recall_lowest": float(np.isin(lowest, guessed).mean()),
    }


def small_stage(source: Source, *, epochs: int, seed: int, **options: Any) -> Stage:
    """Stage that learns one property on all rows it is given, an inner split of them choosing the epoch."""
    from engine.learning.networks.schedule import Schedule
    from engine.learning.pretraining.stage import Stage
    from engine.learning.pretraining.tasks import PropertyTask

    schedule = {"epochs": epochs, "batch_size": 16, "validation_fraction": 0.15, **options.pop("schedule", {})}
    return Stage(
        data="rows",
        tasks=(PropertyTask(source.property, source.scale),),
        schedule=Schedule(**schedule),
        held_out_fraction=0.0,
        min_labels=2,
        seed=seed,
        **options,
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


def check_unseen(backbone: AnyBackbone, materials: Sequence[Material], source: Source) -> None:
    """Refuse a backbone that has learned this property, whatever its spelling, of any of ``materials``."""
    from campaigns.property_families import canonical

    seen = {
        prefix
        for name, prefixes in backbone.card.get("seen", {}).items()
        if canonical(name) == canonical(source.property)
        for prefix in prefixes
    }
    known = [m.id for m in materials if m.content_hash[:12] in seen]
    if known:
        raise CampaignError(
            f"backbone {backbone.name} has seen {source.property} of {len(known)} crystals (e.g. {known[0]}), so that "
            "the study would be told its answers; give one that has not"
        )


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
        self, materials: Sequence[Material], source: Source, seed: int, lower_fidelity: Ensemble | None = None
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
    n_trees = _TREES if len(values) <= _MANY else _TREES_OF_MANY
    fitted = forest(n_trees, max_features=0.5, random_state=seed, n_jobs=1).fit(training.values, values)
    return np.asarray(fitted.predict(test.values))


def digest(*content: object) -> str:
    """SHA-256 of anything JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def markdown(rows: Sequence[Sequence[str]], head: Sequence[str]) -> str:
    """Write a Markdown table, the first column left-aligned."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def mean_std(values: Sequence[float | None]) -> str:
    """Mean and standard deviation of those that are defined, e.g. ``.346 (.041)``."""
    known = [v for v in values if v is not None]
    mean = mean_of(known)
    if mean is None:
        return "-"
    spread = f" ({short(float(np.std(known, ddof=1)))})" if len(known) > 1 else ""
    return short(mean) + spread


def mean_of(values: Sequence[float | None]) -> float | None:
    """Mean of those that are defined."""
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def short(value: float) -> str:
    """Three decimals, without the zero before the point."""
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.2f}"


def _find(folder: Path, roles: Sequence[str]) -> dict[str, Path]:
    if not folder.is_dir():
        raise CampaignError(f"no folder {folder}; give the folder of the data with --data")
    names = sorted(path for path in folder.iterdir() if path.is_file())
    found = {role: next((p for p in names if p.name.startswith(SOURCES[role].file)), None) for role in roles}
    absent = [
        f"{SOURCES[role].file}.jsonl.gz ({SOURCES[role].what}, field {SOURCES[role].property})"
        for role, path in found.items()
        if path is None
    ]
    if absent:
        raise CampaignError(f"{folder} lacks {'; '.join(absent)}; put files whose names begin like these there")
    return {role: path for role, path in found.items() if path is not None}
