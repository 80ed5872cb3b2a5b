"""Make the shipped models of first-principles conductivity again: ``python -m tests.benchmarks.shipped DATA [OUT]``.

``DATA`` is a folder with ``ltc_phonix``, ``ltc_l96`` and ``ltc_hh143`` (``*.jsonl.gz``). Two models are made:
``kappa-300K`` of all labels, and ``kappa-300K-rehearsal`` without any formula of the shipped reference compounds, so
that a campaign on these may be rehearsed with a model that has not seen them. Labels that the others contradict (by a
first model's held-out error) train neither, and stand in the card.

``kappascout study phonix --data DATA`` measures the same kind of model on splits of ``ltc_phonix``.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from campaigns.intake.reading import open_sources
from campaigns.studies.phonix import BACKBONES
from engine.learning.backbones.backbone import shipped_backbones
from engine.learning.backbones.stack import make_featuriser
from engine.learning.ensemble.evaluation import contradicted
from engine.learning.ensemble.records import RECORD
from engine.learning.ensemble.settings import EnsembleSettings
from engine.learning.ensemble.storage import load_starts, save_ensemble
from engine.learning.ensemble.training import Labels, train_ensemble
from engine.materials.crystal import Material
from engine.materials.loading import load
from engine.materials.sources.kinds import REFERENCE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.learning.backbones.stack import AnyFeaturiser
    from engine.learning.ensemble.ensemble import Ensemble

PROPERTY = "kappa_300K_W_mK"
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
    run(sys.argv[1:])
