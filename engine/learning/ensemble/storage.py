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

import torch

from engine.exceptions import BackboneError, ModelFileError
from engine.learning.backbones.backbone import CARD, Backbone, load_backbone
from engine.learning.backbones.stack import AnyBackbone, mixed
from engine.learning.ensemble.ensemble import UPPER, Ensemble, EnsembleSettings
from engine.learning.ensemble.stacking import Blend, Partner
from engine.learning.heads.gp import GaussianProcessHead
from engine.learning.heads.mlp import PerceptronHead
from engine.learning.heads.trees import Forest, Trees
from engine.learning.networks.committee import NetworkCommittee
from engine.learning.networks.finetune import NetworkHead
from engine.learning.networks.training import Schedule
from engine.metrics.extrapolation import TrainingDistance, Widening

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor


RECORD = "ensemble.json"
_DISTANCE = "distance.safetensors"
_LOWER = "lower-fidelity"
_NETWORK = "network-"
_TREES = "trees.safetensors"


def save_ensemble(ensemble: Ensemble, folder: Path | str, backbones: Path | str | None = None) -> dict[str, Any]:
    """Write ``ensemble`` under ``folder`` and return its record; the record is written last, so it vouches for all.

    ``backbones`` is a folder in which models share backbones, one sub-folder a hash; without it the model holds its
    own.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    members = []
    for k, (head, noise) in enumerate(zip(ensemble.heads, ensemble.noise, strict=True)):
        tensors = head.tensors
        if ensemble.lower_fidelity is not None:
            tensors = head.upper(ensemble.lower_fidelity.process)
        written = _write_tensors(folder / f"member-{k}.safetensors", tensors)
        members.append({**written, "seed": ensemble.settings.member_seeds[k], "noise": noise})
    files = [*_save_partners(ensemble, folder), *_save_distance(ensemble, folder)]
    if ensemble.lower_fidelity is not None:
        save_ensemble(ensemble.lower_fidelity, folder / _LOWER, backbones)
    record = {
        "property": ensemble.property,
        "scale": ensemble.scale,
        "settings": asdict(ensemble.settings),
        "backbone": _save_backbone(ensemble.backbone, folder, backbones),
        "calibration": ensemble.calibration,
        "shares": dict(ensemble.blend.shares) if ensemble.blend else {},
        "widening": {name: list(numbers) for name, numbers in asdict(ensemble.widening).items()},
        "members": members,
        "files": files,
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
    backbone = mixed([_load_backbone(folder, part) for part in backbone_parts(record)])
    settings = EnsembleSettings(**{**record["settings"], "schedule": Schedule(**record["settings"]["schedule"])})
    contents = [_read_checked(folder / member["path"], member["sha256"]) for member in record["members"]]
    lower = load_ensemble(folder / _LOWER) if (folder / _LOWER / RECORD).is_file() else None
    heads = [_head(settings, backbone, k, load(content)) for k, content in enumerate(contents)]
    if lower is not None:
        heads = [lower.process.with_upper(load(content), UPPER) for content in contents]
    files = {f["path"]: load(_read_checked(folder / f["path"], f["sha256"])) for f in record["files"]}
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
        lower_fidelity=lower,
        blend=_blend(record, backbone, files),
        widening=Widening(**{name: tuple(v) for name, v in record["widening"].items()}),
        distance=_distance(files[_DISTANCE]) if _DISTANCE in files else None,
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


def backbone_parts(record: Mapping[str, Any]) -> list[dict[str, str]]:
    """Name, SHA-256 and folder (relative to the model's) of each backbone that a recorded ensemble stands on."""
    return list(record["backbone"].get("parts", [record["backbone"]]))


def load_starts(names: str | Path | Sequence[str | Path]) -> AnyBackbone:
    """Load what to start from: one backbone, or several to be read side by side.

    Each is named as for :func:`load_backbone`, or is a trained model of ours: one whose members are fine-tuned networks
    gives the first of them, any other the backbone or backbones it stands on.

    Raises
    ------
    BackboneError
        If one is named twice, or they have no element in common.
    """
    return mixed([_start(name) for name in ([names] if isinstance(names, str | Path) else names)])


def load_start(name: str | Path) -> Backbone:
    """Load the one backbone that ``name`` stands for, as :func:`load_starts`; refuse a model on several."""
    start = load_starts(name)
    if not isinstance(start, Backbone):
        raise BackboneError(f"{name} stands on {len(start.parts)} backbones ({start.name}); name one of them")
    return start


def _start(name: str | Path) -> AnyBackbone:
    folder = Path(name)
    if not (folder / RECORD).is_file() or (folder / CARD).is_file():
        return load_backbone(name)
    ensemble = load_ensemble(folder)
    if ensemble.settings.head != "network":
        return ensemble.backbone
    before, property_ = ensemble.backbone.trained[0].card, ensemble.property
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


def _save_backbone(backbone: AnyBackbone, folder: Path, shared: Path | str | None) -> dict[str, Any]:
    parts = []
    for number, part in enumerate(backbone.parts, start=1):
        own = folder / (f"backbone-{number}" if len(backbone.parts) > 1 else "backbone")
        home = Path(shared) / part.sha256[:32] if shared else own
        if not (home / CARD).is_file():
            part.save(home)
        parts.append({"name": part.name, "sha256": part.sha256, "path": os.path.relpath(home, folder)})
    if len(parts) == 1:
        return parts[0]
    return {"name": backbone.name, "sha256": backbone.sha256, "parts": parts}


def _load_backbone(folder: Path, recorded: Mapping[str, str]) -> Backbone:
    backbone = load_backbone(folder / recorded["path"])
    if backbone.sha256 != recorded["sha256"]:
        raise ModelFileError(
            f"{folder} was trained on backbone {recorded['sha256'][:12]}..., {recorded['path']} is "
            f"{backbone.sha256[:12]}...; restore the backbone or train again"
        )
    return backbone


def _head(settings: EnsembleSettings, backbone: AnyBackbone, index: int, tensors: dict[str, Tensor]) -> Any:
    if settings.head == "network":
        return NetworkHead.from_tensors(backbone.trained[index % len(backbone.trained)], tensors)
    return GaussianProcessHead(tensors) if settings.head == "gp" else PerceptronHead(tensors)


def _save_partners(ensemble: Ensemble, folder: Path) -> list[dict[str, str]]:
    files = []
    for partner in ensemble.blend.partners.values() if ensemble.blend else ():
        if isinstance(partner, NetworkCommittee):
            contents: dict[str, Mapping[str, Tensor]] = {
                f"{_NETWORK}{k}.safetensors": n.tensors for k, n in enumerate(partner.networks)
            }
        else:
            assert isinstance(partner, Trees)
            contents = {_TREES: partner.forest.tensors}
        files += [_write_tensors(folder / name, tensors) for name, tensors in contents.items()]
    return files


def _blend(record: Mapping[str, Any], backbone: AnyBackbone, files: dict[str, dict[str, Tensor]]) -> Blend | None:
    partners: dict[str, Partner] = {}
    trained = backbone.trained
    tensors = [content for path, content in files.items() if path.startswith(_NETWORK)]
    networks = [NetworkHead.from_tensors(trained[k % len(trained)], t) for k, t in enumerate(tensors)]
    if networks:
        partners["networks"] = NetworkCommittee(tuple(networks))
    if _TREES in files:
        partners["trees"] = Trees(Forest(files[_TREES]))
    # models made before trees were blended have the networks' share alone
    shares = record["shares"] if "shares" in record else {"networks": record["network_share"]}
    return Blend(partners, {name: shares[name] for name in partners}) if partners else None


def _save_distance(ensemble: Ensemble, folder: Path) -> list[dict[str, str]]:
    if ensemble.distance is None:
        return []
    tensors = {name: torch.tensor(value) for name, value in vars(ensemble.distance).items()}
    return [_write_tensors(folder / _DISTANCE, tensors)]


def _distance(tensors: dict[str, Tensor]) -> TrainingDistance:
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
    return TrainingDistance(**{**arrays, "neighbours": int(arrays["neighbours"])})


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    from safetensors.torch import save

    content = save({name: t.contiguous() for name, t in tensors.items()})
    path.write_bytes(content)
    return {"path": path.name, "sha256": hashlib.sha256(content).hexdigest()}
