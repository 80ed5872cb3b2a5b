"""What training costs from a thousand labels to a hundred thousand: time, memory and error, exact and sparse.

``python -m tests.benchmarks.labels [--cache FOLDER] [--largest N]`` trains ``frozen`` ensembles (five Gaussian
processes, no trees) on scaled formation energies of the Materials Project as far as there are labels, then on energies
by a potential (:mod:`tests.benchmarks.potential_labels`), and predicts crystals that none of them has seen. Each run
has a process of its own; what is finished is in the cache and is not run again. The table stands at the end of
``tests/benchmarks/SCALE.md``. Where there are fewer labels than a run is to have, embeddings are repeated with noise:
time and memory are those of so many labels then, and there is no error to report.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from tests.benchmarks.crystals import DATA
from tests.benchmarks.measure import Measure, peak_gigabytes, processor_seconds
from tests.benchmarks.potential_labels import CRYSTALS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.learning.backbones.stack import AnyFeaturiser

REPORT = Path(__file__).with_name("SCALE.md")
HEADING = "## Labels"
CACHE = Path("/tmp/kappascout-labels")
HELD_OUT = {"formation": 900, "potential": 2000}
"""Crystals that no run learns from."""
_NOISE = 0.05


@dataclass(frozen=True)
class Run:
    """One training."""

    source: str
    """``formation`` or ``potential``."""
    labels: int
    sparse: bool
    inducing: int = 0
    """Inducing points; 0: as many as are the default."""

    @property
    def name(self) -> str:
        """Of its file in the cache."""
        return f"{self.source}-{self.labels}-{'sparse' if self.sparse else 'exact'}-{self.inducing}"


class Figures(TypedDict):
    """What a run has found."""

    labels: int
    real: int
    """Labels that are no repetition."""
    inducing: int | None
    seconds: float
    """Of the processor, for training."""
    predicting: float
    """Of the processor, microseconds a crystal."""
    gigabytes: float
    """Peak of the process that trains."""
    file: float
    """Size of the model without its backbones, MB."""
    mae: float
    spearman: float
    coverage: float
    cross_validated: float
    """Mean absolute error of the held-out folds."""


RUNS = (
    *(Run("formation", n, sparse) for n in (1000, 3000) for sparse in (False, True)),
    *(Run("potential", n, sparse) for n in (1000, 3000, 6000) for sparse in (False, True)),
    Run("potential", 10_000, True),
    Run("potential", 40_000, True),
    Run("potential", 100_000, True),
)


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.labels", description=__doc__)
    parser.add_argument("--cache", type=Path, default=CACHE, metavar="FOLDER", help="for embeddings and results")
    parser.add_argument("--largest", type=int, default=100_000, metavar="N", help="most labels of a run")
    parser.add_argument("--data", type=Path, default=DATA, metavar="FOLDER", help="the data for development")
    parser.add_argument("--crystals", type=int, default=CRYSTALS, metavar="N", help="made for a potential to label")
    arguments = parser.parse_args()
    measure(arguments.cache, arguments.largest, arguments.data, arguments.crystals)


def measure(cache: Path = CACHE, largest: int = 100_000, data: Path = DATA, crystals: int = CRYSTALS) -> list[Measure]:
    """Train every run that is not in the cache yet; returns time and memory of each."""
    found: dict[Run, Figures] = {}
    for run in (run for run in RUNS if run.labels <= largest):
        path = cache / f"results-{crystals}" / f"{run.name}.json"
        if not path.is_file():
            sys.stderr.write(f"{run.name} ...\n")
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
                figures = executor.submit(partial(train, run, cache, data, crystals)).result()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(figures) + "\n")
        found[run] = json.loads(path.read_text())
        _write(found)
    return [
        measured
        for run, figures in found.items()
        for measured in (
            Measure(f"training, {run.name}", figures["seconds"], None, "CPU-s"),
            Measure(f"memory of training, {run.name}", figures["gigabytes"], None, "GB"),
        )
    ]


def train(run: Run, cache: Path, data: Path, crystals: int) -> Figures:
    """Train one ensemble and predict the crystals held out."""
    import torch
    from scipy.stats import spearmanr

    from engine.learning.ensemble.settings import EnsembleSettings
    from engine.learning.ensemble.storage import save_ensemble
    from engine.learning.ensemble.training import Labels, train_ensemble
    from engine.learning.heads import gp_members, sparse_members
    from engine.metrics.calibration import Z90

    torch.set_num_threads(1)
    featuriser, keys, values = _labelled(run.source, cache, data, crystals)
    order = np.random.default_rng(0).permutation(len(keys))
    held, chosen = np.split(order, [HELD_OUT[run.source]])
    chosen = chosen[: run.labels]
    learned, targets = [keys[i] for i in chosen], values[chosen]
    if len(chosen) < run.labels:
        learned, targets = _repeated(featuriser, learned, targets, run.labels, cache)
    gp_members.EXACT_ROWS = 0 if run.sparse else sys.maxsize  # whatever the number of labels
    sparse_members.INDUCING = run.inducing or sparse_members.INDUCING
    settings, trained = EnsembleSettings(trees=False), []
    labels = Labels(learned, targets, run.source, "linear")
    seconds = processor_seconds(lambda: trained.append(train_ensemble(featuriser, labels, settings)))
    ensemble, new = trained[0], [keys[i] for i in held]
    peak = peak_gigabytes()
    ensemble.predict(featuriser, new[:1])  # what is worked out once
    tables: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    predicting = processor_seconds(lambda: tables.append(ensemble.predict(featuriser, new).total(ensemble.calibration)))
    mean, std = tables[0]
    error = np.abs(values[held] - mean)
    save_ensemble(ensemble, cache / "models" / run.name, cache / "backbones")
    size = sum(path.stat().st_size for path in (cache / "models" / run.name).glob("*"))
    heads = ensemble.members.heads
    return Figures(
        labels=run.labels,
        real=len(chosen),
        inducing=len(heads[0].process.prior.tensors.x) if run.sparse else None,
        seconds=seconds,
        predicting=predicting / len(new) * 1e6,
        gigabytes=peak,
        file=size / 1e6,
        mae=float(error.mean()),
        spearman=float(spearmanr(values[held], mean)[0]),
        coverage=float((error < Z90 * std).mean()),
        cross_validated=float(ensemble.metrics["model"]["mae"]),
    )


def _labelled(
    source: str, cache: Path, data: Path, crystals: int
) -> tuple[AnyFeaturiser, list[str], NDArray[np.float64]]:
    from tests.benchmarks import crystals as files
    from tests.benchmarks import potential_labels

    files.DATA = data
    embedder = potential_labels.featuriser(cache)
    if source == "potential":
        return embedder, *potential_labels.labelled(cache, crystals)
    path = cache / "formation.npz"
    if not path.is_file():
        _embed_formation(embedder, path, data)
    with np.load(path) as stored:
        return embedder, stored["keys"].tolist(), stored["values"]


def _embed_formation(embedder: AnyFeaturiser, path: Path, data: Path) -> None:
    """Read and embed the crystals with a formation energy; keys and labels are written to ``path``."""
    from engine.materials.crystal import Material
    from engine.materials.loading import load

    found = {}
    for outcomes in load(
        [data / "tl_formation_energy.jsonl.gz"], workers=1, allowed_elements=embedder.backbone.elements
    ):
        found |= {m.content_hash: m for m in outcomes if isinstance(m, Material)}
    embedder.add({key: material.crystal for key, material in found.items()})
    values = [float(m.properties["formation_energy_scaled"]) for m in found.values()]
    np.savez(path, keys=list(found), values=values)


def _repeated(
    featuriser: AnyFeaturiser, keys: list[str], values: NDArray[np.float64], count: int, cache: Path
) -> tuple[list[str], NDArray[np.float64]]:
    """The labels once more as often as it takes, with noise on their embeddings and values."""
    rng = np.random.default_rng(1)
    rows = rng.integers(len(keys), size=count - len(keys))
    spread = _NOISE * featuriser.embeddings(keys[:5000]).std(axis=0)
    made = [f"{keys[row][:24]}{number:08x}" for number, row in enumerate(rows.tolist())]
    noisy = _Noisy(featuriser, dict(zip(made, [keys[row] for row in rows.tolist()], strict=True)), spread)
    featuriser.embeddings = noisy  # type: ignore[method-assign]
    scatter = _NOISE * values.std() * rng.standard_normal(len(rows))
    return keys + made, np.concatenate([values, values[rows] + scatter])


class _Noisy:
    """Embeddings of a featuriser, and those of made keys: of the crystal that each repeats, with noise."""

    def __init__(self, featuriser: AnyFeaturiser, real: dict[str, str], spread: NDArray[np.float32]):
        self._read, self._real, self._spread = featuriser.embeddings, real, spread

    def __call__(self, keys: list[str]) -> NDArray[np.float32]:
        found = self._read([self._real.get(key, key) for key in keys])
        rng = np.random.default_rng(2)
        for start in range(0, len(keys), 5000):
            part = np.array([key in self._real for key in keys[start : start + 5000]])
            noise = rng.standard_normal((len(part), found.shape[1]), dtype=np.float32) * self._spread
            found[start : start + 5000] += noise * part[:, None]
        return found


def _write(found: dict[Run, Figures]) -> None:
    """Write the table behind what the report has."""
    lines = [
        HEADING,
        "",
        f"`python -m tests.benchmarks.labels`, {datetime.now(UTC):%Y-%m-%d}; one thread; `frozen`, five members, both "
        "shipped backbones, no trees beside them; baselines and evaluation included, embeddings ready. Formation "
        "energies: scaled to [-1, 1], Materials Project, 3,937 labels, which the backbones were trained on; potential: "
        "eV/atom, energies by TensorNet-MatPES-PBE of substituted crystals less a linear fit to the composition. "
        "Errors and coverage of 90 % intervals are of crystals that were held out; in brackets the ratio to the exact "
        "model.",
        "",
        "| labels | of | model | inducing points | CPU-s | peak GB | model MB | us/crystal | MAE | Spearman | coverage "
        "| MAE of folds |",
        "|--:|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for run, f in found.items():
        exact = found.get(Run(run.source, run.labels, False)) if run.sparse else None
        ratio = f" ({f['mae'] / exact['mae']:.2f})" if exact else ""
        known = f["real"] == f["labels"]
        errors = (
            f"{f['mae']:.4f}{ratio}",
            f"{f['spearman']:.3f}",
            f"{f['coverage']:.2f}",
            f"{f['cross_validated']:.4f}",
        )
        cells = [
            f"{run.labels:,}" if known else f"{run.labels:,} ({f['real']:,} and repetitions)",
            run.source,
            "sparse" if run.sparse else "exact",
            "" if f["inducing"] is None else f"{f['inducing']:,}",
            f"{f['seconds']:,.0f}",
            f"{f['gigabytes']:.1f}",
            f"{f['file']:,.0f}",
            f"{f['predicting']:,.0f}",
            *(errors if known else ("", "", "", "")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    text = REPORT.read_text() if REPORT.is_file() else ""
    REPORT.write_text(text.partition(HEADING)[0].rstrip() + "\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
