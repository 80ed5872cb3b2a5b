"""Make the shipped models of first-principles conductivity again: ``python -m tests.benchmarks.shipped DATA [OUT]``.

``DATA`` is a folder with ``ltc_phonix``, ``ltc_l96`` and ``ltc_hh143`` (``*.jsonl.gz``). Two models are made:
``kappa-300K`` of all labels, and ``kappa-300K-rehearsal`` without any formula of the shipped reference compounds, so
that a campaign on these may be rehearsed with a model that has not seen them. Labels that the others contradict (by a
first model's held-out error) train neither, and stand in the card.

``python -m tests.benchmarks.shipped --splits DATA`` trains the same kind of model on splits of ``ltc_phonix`` instead
and prints its errors beside baselines: whole formulas held out, and the published test sets as far as the file has them
(unseen space groups; values below 1 W/(m K), with labels above it alone). All labels count there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import spearmanr
from sklearn.ensemble import ExtraTreesRegressor

from campaigns.intake.reading import REFERENCE, open_sources
from engine.learning.backbones.backbone import shipped_backbones
from engine.learning.backbones.stack import make_featuriser
from engine.learning.ensemble.evaluation import contradicted
from engine.learning.ensemble.records import RECORD
from engine.learning.ensemble.settings import EnsembleSettings
from engine.learning.ensemble.storage import load_starts, save_ensemble
from engine.learning.ensemble.training import Labels, train_ensemble
from engine.materials.crystal import Material
from engine.materials.loading import load
from engine.metrics.calibration import Z90

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from engine.learning.backbones.stack import AnyFeaturiser
    from engine.learning.ensemble.ensemble import Ensemble

PROPERTY = "kappa_300K_W_mK"
BACKBONES = ("megnet-multiproperty-agl", "megnet-taught")
FILES = ("ltc_phonix", "ltc_l96", "ltc_hh143")
OUT = Path("engine/learning/models")
CARD = {
    "property": PROPERTY,
    "unit": "W/(m K)",
    "temperature_K": 300,
    "level_of_theory": "first principles: PBEsol, three-phonon scattering with coherence (Phonix); relaxation-time or "
    "iterative solution with PBE-like functionals for the compounds of L96 and HH143",
    "sources": [
        {
            "name": "Phonix",
            "citation": "M. Ohnishi et al., npj Comput. Mater. (2026); values as published with arXiv:2605.11610",
            "licence": "CC-BY-4.0",
        },
        {"name": "phononDB (crystals)", "citation": "A. Togo, phononDB", "licence": "CC-BY-4.0"},
        {
            "name": "L96",
            "citation": "A. Togo, L. Chaput, I. Tanaka, Phys. Rev. B 91, 094306 (2015), as gathered for "
            "arXiv:2411.18259",
            "licence": "facts tabulated from a publication",
        },
        {
            "name": "HH143",
            "citation": "half-Heusler compounds as gathered for arXiv:2411.18259",
            "licence": "facts tabulated from a publication",
        },
    ],
    "licence": "weights: as the project; cite the sources above",
    "made_by": "python -m tests.benchmarks.shipped DATA",
}


def splits(data: Path) -> None:
    """Errors (ln kappa) on held-out crystals of ``ltc_phonix`` by split, a line each as it is finished."""
    materials = {key: m for key, m in _materials(data).items() if "ltc_phonix" in m.source}
    keys = list(materials)
    values = np.log10([float(m.properties[PROPERTY]) for m in materials.values()])
    sets = [str(m.properties.get("published_test_sets") or "").split(",") for m in materials.values()]
    fold = np.array([int(hashlib.sha256(m.formula.encode()).hexdigest(), 16) % 3 for m in materials.values()])
    low = values < 0
    tests = {
        "formula": fold == 0,
        "random": np.array(["random" in s for s in sets]),
        "space_group": np.array(["space_group" in s for s in sets]),
        "tail (train above 1 W/(m K))": low,
    }
    with tempfile.TemporaryDirectory() as cache:
        featuriser = make_featuriser(load_starts(BACKBONES), cache)
        featuriser.add({key: m.crystal for key, m in materials.items()})
        for name, test in tests.items():
            train, held = np.flatnonzero(~test), np.flatnonzero(test)
            labels = Labels([keys[i] for i in train], values[train], PROPERTY, "log10")
            ensemble = train_ensemble(featuriser, labels, EnsembleSettings())
            table = ensemble.predict(featuriser, [keys[i] for i in held])
            mean, std = table.total(ensemble.calibration)
            embeddings = [featuriser.embeddings([keys[i] for i in rows])[:, :88] for rows in (train, held)]
            trees = ExtraTreesRegressor(300, max_features=0.3, random_state=0).fit(embeddings[0], values[train])
            figures = {
                "split": name,
                "train": len(train),
                "test": len(held),
                **_errors(values[held], mean),
                "coverage_90": float((np.abs(values[held] - mean) < Z90 * std).mean()),
                "trees_on_statistics": _errors(values[held], trees.predict(embeddings[1])),
                "constant": _errors(values[held], np.full(len(held), np.median(values[train]))),
                "lowest_training_value": _errors(values[held], np.full(len(held), values[train].min())),
            }
            print(json.dumps(figures), flush=True)


def _errors(values: NDArray[np.float64], mean: NDArray[np.float64]) -> dict[str, float]:
    rank = float(spearmanr(values, mean)[0]) if np.ptp(mean) else float("nan")
    return {"mae_ln": float(np.abs(values - mean).mean() * np.log(10)), "spearman": rank}


def run(arguments: list[str]) -> None:
    """Train both models and write them to ``OUT`` (or the second argument)."""
    data, out = Path(arguments[0]), Path(arguments[1]) if len(arguments) > 1 else OUT
    materials = _materials(data)
    reference = {m.formula for part in open_sources([REFERENCE]) for m in part if isinstance(m, Material)}
    with tempfile.TemporaryDirectory() as cache:
        featuriser = make_featuriser(load_starts(BACKBONES), cache)
        featuriser.add({key: m.crystal for key, m in materials.items()})
        wrong = _contradicted(featuriser, materials)
        kept = {key: m for key, m in materials.items() if key not in wrong}
        unseen = {key: m for key, m in kept.items() if m.formula not in reference}
        for name, used in (("kappa-300K", kept), ("kappa-300K-rehearsal", unseen)):
            ensemble = _train(featuriser, used)
            _ship(ensemble, out / name)
            left_out = [materials[key] for key in materials if key not in used]
            card = {
                "name": name,
                **CARD,
                "labels": len(used),
                "by_file": {f: sum(f in m.source for m in used.values()) for f in FILES},
                "left_out_as_contradicted": {materials[key].id: values for key, values in wrong.items()},
                "left_out_as_reference_compounds": 0 if used is kept else len(left_out) - len(wrong),
                "held_out_note": "five folds, log10; contradicted labels are in none, so that errors are of the others",
                "held_out": {k: ensemble.metrics[k] for k in ("model", "constant", "extra_trees")},
                "chosen": ensemble.metrics["chosen"],
            }
            (out / name / "card.json").write_text(json.dumps(card, indent=1) + "\n")
            size = sum(path.stat().st_size for path in (out / name).iterdir()) / 1e6
            print(f"{name}: {len(used)} labels, {size:.1f} MB, {card['held_out']['model']}")


def _materials(data: Path) -> dict[str, Material]:
    """Labelled crystals by content hash; of copies the first file's counts."""
    found: dict[str, Material] = {}
    for part in load([data / f"{name}.jsonl.gz" for name in FILES], workers=1):
        for m in part:
            if isinstance(m, Material) and float(m.properties.get(PROPERTY) or 0) > 0:
                found.setdefault(m.content_hash, m)
    return found


def _train(featuriser: AnyFeaturiser, materials: Mapping[str, Material]) -> Ensemble:
    values = np.log10([float(m.properties[PROPERTY]) for m in materials.values()])
    labels = Labels(list(materials), values, PROPERTY, "log10")
    return train_ensemble(featuriser, labels, EnsembleSettings(), progress=print)


def _contradicted(featuriser: AnyFeaturiser, materials: Mapping[str, Material]) -> dict[str, dict[str, float]]:
    """Labels (W/(m K)) that the others contradict, and what these predict."""
    ensemble, keys = _train(featuriser, materials), list(materials)
    values = np.log10([float(m.properties[PROPERTY]) for m in materials.values()])
    return {
        keys[row]: {"label": 10 ** values[row], "predicted": 10 ** ensemble.held_out[row, 0]}
        for row in contradicted(values, ensemble.held_out)
    }


def _ship(ensemble: Ensemble, folder: Path) -> None:
    """Write the model; its backbones are shipped already, so that it names their folders."""
    shutil.rmtree(folder, ignore_errors=True)
    record = save_ensemble(ensemble, folder)
    for part in record["backbone"].get("parts", [record["backbone"]]):
        assert part["name"] in shipped_backbones()
        shutil.rmtree(folder / part["path"])
        part["path"] = f"../../backbones/{part['name']}"
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    splits(Path(sys.argv[2])) if sys.argv[1] == "--splits" else run(sys.argv[1:])
