"""Trained ensembles on disk: a JSON record, one safetensors file a member, and the backbone they stand on.

Nothing is pickled. Every file's SHA-256 is in the record and is checked before the file is read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
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

    ``backbones`` is a folder in which models share backbones, one sub-folder a hash; without it the model holds its own.
    """
    from safetensors.torch import save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    members = []
    for k, (head, noise) in enumerate(zip(ensemble.heads, ensemble.noise, strict=True)):
        content = save({name: t.contiguous() for name, t in _tensors(head).items()})
        path = f"member-{k}.safetensors"
        (folder / path).write_bytes(content)
        seed = ensemble.settings.seed * 1000 + k
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
    settings = EnsembleSettings(**{**record["settings"], "schedule": Schedule(**record["settings"]["schedule"])})
    heads = []
    for path, intact in verify_ensemble(folder):
        if not intact:
            raise ModelFileError(f"{path} does not have the SHA-256 of its record; restore it or train again")
        heads.append(_head(settings, backbone, load(path.read_bytes())))
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
    )


def read_record(folder: Path | str) -> dict[str, Any]:
    """The JSON record of a trained ensemble."""
    path = Path(folder) / RECORD
    if not path.is_file():
        raise ModelFileError(f"{folder} holds no {RECORD}, so it is no trained model; give the folder that `train` wrote")
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def verify_ensemble(folder: Path | str) -> Iterator[tuple[Path, bool]]:
    """Each member file with whether it is there and has the recorded SHA-256."""
    for member in read_record(folder)["members"]:
        path = Path(folder) / member["path"]
        intact = path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == member["sha256"]
        yield path, intact


def load_start(name: str | Path) -> Backbone:
    """A backbone to start from: as :func:`load_backbone`, or the network inside a trained model of ours.

    A fine-tuned (``full``) model gives the network of its first member, a ``frozen`` one the backbone it stands on.
    """
    folder = Path(name)
    if not (folder / RECORD).is_file() or (folder / CARD).is_file():
        return load_backbone(name)
    ensemble = load_ensemble(folder)
    stage = {"start": str(folder.name), "properties": [ensemble.property], "data_hash": ensemble.data_hash}
    lineage = [*ensemble.backbone.card.get("lineage", []), stage]
    if ensemble.settings.strategy == "frozen":
        return ensemble.backbone
    network = ensemble.heads[0].network
    card = {**ensemble.backbone.card, "lineage": lineage}
    return Backbone(f"{folder.name}/member-0", network, card)


def _tensors(head: Any) -> dict[str, Tensor]:
    return dict(head.tensors() if callable(head.tensors) else head.tensors)


def _head(settings: EnsembleSettings, backbone: Backbone, tensors: dict[str, Tensor]) -> Any:
    if settings.strategy == "full":
        from engine.learning.finetune import NetworkHead

        return NetworkHead.from_tensors(backbone, tensors)
    if settings.head == "gp":
        return GaussianProcessHead(tensors, backbone.groups)
    from engine.learning.mlp import PerceptronHead

    return PerceptronHead(tensors)
