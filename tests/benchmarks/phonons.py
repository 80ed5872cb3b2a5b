"""kappa from phonons of pre-trained potentials against published values; a table for ``engine/physics/PHONONS.md``.

Each compound takes about half a minute of one thread; what is done is kept in ``phonons.json`` beside this file and
not done again, unless potential, settings or versions are others.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks.measure import Measure

if TYPE_CHECKING:
    from engine.physics.outcome import Outcome

REPOSITORY = Path(__file__).resolve().parents[2]
POTENTIALS = {
    "PBE": REPOSITORY.parent / "shared/pretrained/TensorNet-MatPES-PBE-v2025.1-PES",
    "r2SCAN": REPOSITORY.parent / "shared/pretrained/TensorNet-MatPES-r2SCAN-v2025.1-PES",
}
COMPOUNDS = (
    "Si-diamond",
    "GaAs-zincblende",
    "MgO-rocksalt",
    "NaCl-rocksalt",
    "PbTe-rocksalt",
    "LiF-rocksalt",
    "AlAs-zincblende",
    "CaO-rocksalt",
    "KCl-rocksalt",
    "InSb-zincblende",
    "GaP-zincblende",
    "Ge-diamond",
    "CdTe-zincblende",
    "ZnSe-zincblende",
    "BaO-rocksalt",
    "InP-zincblende",
)
RESULTS = Path(__file__).with_suffix(".json")
TABLE = REPOSITORY / "engine/physics/PHONONS.md"
MARKS = ("<!-- table: python -m tests.benchmarks phonons -->", "<!-- end of table -->")


def measure() -> list[Measure]:
    """Kappa at 300 K of every compound with every potential that is here, against experiment."""
    # read by phono3py's threads when they start
    os.environ.setdefault("RAYON_NUM_THREADS", "1")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    measures = []
    for name, folder in POTENTIALS.items():
        if not folder.exists():
            measures.append(Measure(f"kappa with {name} weights", None, None, "W/(m K)", note="no weights here"))
            continue
        _complete(name, folder, results)
        measures += [_measure(name, compound, results[f"{name}:{compound}"]) for compound in COMPOUNDS]
    if results:
        _write_table(results)
    return measures


def _complete(name: str, folder: Path, results: dict[str, Any]) -> None:
    """Calculate what is missing or was calculated otherwise, and keep each result at once."""
    from engine.materials.reference import reference_crystals
    from engine.physics.phonons import PACKAGES, PhononSettings, calculate_kappa
    from engine.physics.potentials import load_potential

    crystals = reference_crystals()
    settings = PhononSettings()
    made_with = {"settings": asdict(settings), "versions": {package: version(package) for package in PACKAGES}}
    potential = None
    for compound in COMPOUNDS:
        known = results.get(f"{name}:{compound}", {})
        if all(known.get("provenance", {}).get(key) == value for key, value in made_with.items()):
            continue
        potential = potential or load_potential(folder)
        outcome = calculate_kappa(crystals[f"LTC-{compound}"], potential, settings)
        results[f"{name}:{compound}"] = _record(outcome)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


def _record(outcome: Outcome) -> dict[str, Any]:
    from engine.physics.outcome import Calculated

    ending: dict[str, Any] = (
        {"kappa": outcome.kappa}
        if isinstance(outcome, Calculated)
        else {"reason": outcome.reason, "message": outcome.message}
    )
    return ending | {"core_seconds": round(outcome.core_seconds, 1), "provenance": outcome.provenance}


def _measure(name: str, compound: str, result: dict[str, Any]) -> Measure:
    note = result.get("message", f"{result['core_seconds']} CPU-s")
    return Measure(
        f"kappa of {compound}, {name}", result.get("kappa"), _published(compound)["experiment"], "W/(m K)", note=note
    )


def _published(compound: str) -> dict[str, float]:
    from engine.materials.reference import reference_table

    return {entry.fidelity: entry.value for entry in reference_table() if entry.id == f"LTC-{compound}"}


def _write_table(results: dict[str, Any]) -> None:
    names = [name for name in POTENTIALS if any(key.startswith(f"{name}:") for key in results)]
    lines = [
        "| compound | experiment | first principles | "
        + " | ".join(f"{name} | supercells | mesh | CPU-s" for name in names)
        + " |",
        "|---|--:|--:|" + "--:|--:|--:|--:|" * len(names),
    ]
    for compound in COMPOUNDS:
        published = _published(compound)
        cells = [compound, *(_number(published.get(fidelity)) for fidelity in ("experiment", "dft"))]
        for name in names:
            cells += _cells(results.get(f"{name}:{compound}"))
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *(_summary(name, results) for name in names)]
    text = TABLE.read_text()
    before, rest = text.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    TABLE.write_text(f"{before}{MARKS[0]}\n\n" + "\n".join(lines) + f"\n\n{MARKS[1]}{after}")


def _cells(result: dict[str, Any] | None) -> list[str]:
    if result is None:
        return ["-"] * 4
    found = result["provenance"]
    kappa = f"**{_number(result['kappa'])}**" if "kappa" in result else result["reason"].replace("_", " ")
    mark = "" if found.get("mesh_converged", True) else " *"
    return [
        kappa,
        str(found.get("n_supercells", "-")),
        f"{found['mesh'][0]}^3{mark}" if "mesh" in found else "-",
        f"{result['core_seconds']:.0f}",
    ]


def _summary(name: str, results: dict[str, Any]) -> str:
    """Agreement as people quote it."""
    import numpy as np

    parts = []
    for fidelity, title in (("experiment", "experiment"), ("dft", "first principles")):
        pairs = [
            (results[f"{name}:{c}"]["kappa"], _published(c)[fidelity])
            for c in COMPOUNDS
            if "kappa" in results.get(f"{name}:{c}", {}) and fidelity in _published(c)
        ]
        ratio = np.log10([a / b for a, b in pairs])
        ranks = [np.argsort(np.argsort(values)) for values in zip(*pairs, strict=True)]
        parts.append(
            f"{title} ({len(pairs)}): mean |log10 ratio| {np.abs(ratio).mean():.2f}, "
            f"median ratio {10 ** np.median(ratio):.2f}, Spearman {np.corrcoef(*ranks)[0, 1]:.2f}"
        )
    return f"- {name} against " + "; against ".join(parts)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
