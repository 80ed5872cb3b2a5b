"""Trained ensembles on disk: a JSON record, one safetensors file a member, and the backbone they stand on.

Nothing is pickled. Every file's SHA-256 is in the record and is checked before the file is read.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.exceptions import ModelFileError
from engine.learning.backbone import CARD, Backbone, load_backbone
from engine.learning.ensemble import Ensemble, EnsembleSettings
from engine.learning.gp import GaussianProcessHead
from engine.learning.training import Schedule

if TYPE_CHECKING:
    from torch import Tensor

RECORD = "ensemble.json"


def save_ensemble(ensemble: Ensemble, folder: Path | str, backbones: Path | str | None = None) -> dict[str, Any]:
    """Write ``ensemble`` under ``folder`` and return its record; the record is written last, so it vouches for all.

    ``backbones`` is a folder in which models share backbones, one sub-folder a hash; without it the model holds its
    own.
    """
    from safetensors.torch import save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    members = []
    for k, (head, noise) in enumerate(zip(ensemble.heads, ensemble.noise, strict=True)):
        content = save({name: t.contiguous() for name, t in head.tensors.items()})
        path, seed = f"member-{k}.safetensors", ensemble.settings.member_seeds[k]
        (folder / path).write_bytes(content)
        members.append({"path": path, "sha256": hashlib.sha256(content).hexdigest(), "seed": seed, "noise": noise})
    home = Path(backbones) / ensemble.backbone.sha256[:32] if backbones else folder / "backbone"
    if not (home / CARD).is_file():
        ensemble.backbone.save(home)
    record = {
        "property": ensemble.property,
        "scale": ensemble.scale,
        "settings": asdict(ensemble.settings),
        "backbone": {
            "name": ensemble.backbone.name,
            "sha256": ensemble.backbone.sha256,
            "path": os.path.relpath(home, folder),
        },
        "calibration": ensemble.calibration,
        "members": members,
        "data_hash": ensemble.data_hash,
        "metrics": ensemble.metrics,
        "seen": list(ensemble.seen),
    }
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    return record


def load_ensemble(folder: Path | str) -> Ensemble:
    """Read an ensemble written by :func:`save_ensemble`.

    Raises
    ------
    ModelFileError
        If there is none, or a file is not what the record says.
    """
    from safetensors.torch import load

    folder = Path(folder)
    record = read_record(folder)
    backbone = load_backbone(folder / record["backbone"]["path"])
    if backbone.sha256 != record["backbone"]["sha256"]:
        raise ModelFileError(
            f"{folder} was trained on backbone {record['backbone']['sha256'][:12]}..., {record['backbone']['path']} is "
            f"{backbone.sha256[:12]}...; restore the backbone or train again"
        )
    settings = EnsembleSettings(**{**record["settings"], "schedule": Schedule(**record["settings"]["schedule"])})
    contents = [_read_checked(folder / member["path"], member["sha256"]) for member in record["members"]]
    heads = [_head(settings, backbone, load(content)) for content in contents]
    return Ensemble(
        backbone=backbone,
        settings=settings,
        property=record["property"],
        scale=record["scale"],
        heads=tuple(heads),
        noise=tuple(m["noise"] for m in record["members"]),
        calibration=record["calibration"],
        metrics=record["metrics"],
        data_hash=record["data_hash"],
        seen=tuple(record["seen"]),
    )


def read_record(folder: Path | str) -> dict[str, Any]:
    """Read the JSON record of a trained ensemble."""
    path = Path(folder) / RECORD
    if not path.is_file():
        raise ModelFileError(f"{folder} holds no {RECORD}, so it is no trained model; give a folder that `train` wrote")
    try:
        return dict(json.loads(path.read_text()))
    except ValueError as error:
        raise ModelFileError(f"{path} is not JSON ({error}); restore it or train again") from error


def load_start(name: str | Path) -> Backbone:
    """Load a backbone to start from: as :func:`load_backbone`, or the network inside a trained model of ours.

    A fine-tuned (``full``) model gives the network of its first member, a ``frozen`` one the backbone it stands on.
    """
    folder = Path(name)
    if not (folder / RECORD).is_file() or (folder / CARD).is_file():
        return load_backbone(name)
    ensemble = load_ensemble(folder)
    if ensemble.settings.strategy == "frozen":
        return ensemble.backbone
    before, property_ = ensemble.backbone.card, ensemble.property
    stage = {"start": folder.name, "properties": [property_], "data_hash": ensemble.data_hash}
    seen = {**before.get("seen", {})}
    seen[property_] = sorted({*seen.get(property_, ()), *ensemble.seen})
    card = {**before, "lineage": [*before.get("lineage", []), stage], "seen": seen}
    return Backbone(f"{folder.name}/member-0", ensemble.heads[0].network, card)


def _read_checked(path: Path, sha256: str) -> bytes:
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ModelFileError(f"{path} is missing or does not have the SHA-256 of its record; restore it or train again")
    return content


def _head(settings: EnsembleSettings, backbone: Backbone, tensors: dict[str, Tensor]) -> Any:
    if settings.strategy == "full":
        from engine.learning.finetune import NetworkHead

        return NetworkHead.from_tensors(backbone, tensors)
    if settings.head == "gp":
        return GaussianProcessHead(tensors, backbone.groups)
    from engine.learning.mlp import PerceptronHead

    return PerceptronHead(tensors)
