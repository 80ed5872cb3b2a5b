"""Trained ensembles on disk: a JSON record, one safetensors file a member, and the backbone they stand on.

Nothing is pickled. Every file's SHA-256 is in the record and is checked before the file is read.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from engine.exceptions import BackboneError, ModelFileError
from engine.learning.backbones.backbone import CARD, Backbone, load_backbone
from engine.learning.backbones.part import BackbonePart
from engine.learning.backbones.potential_backbone import POTENTIAL, PotentialBackbone, load_potential_backbone
from engine.learning.backbones.stack import AnyBackbone, stacked
from engine.learning.ensemble.ensemble import Ensemble
from engine.learning.ensemble.records import RECORD, backbone_parts, model_folder, read_record
from engine.learning.ensemble.settings import EnsembleSettings
from engine.learning.ensemble.stacking import Stacking
from engine.learning.networks.schedule import Schedule
from engine.metrics.extrapolation import TrainingDistance, VarianceInflation
from engine.physics.calculator_specs import is_calculator_spec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor


_DISTANCE = "distance.safetensors"
_LOWER = "lower-fidelity"


def save_ensemble(ensemble: Ensemble, folder: Path | str, backbones: Path | str | None = None) -> dict[str, Any]:
    """Write ``ensemble`` under ``folder`` and return its record; the record is written last, so it vouches for all.

    ``backbones`` is a folder in which models share backbones, one sub-folder a hash; without it the model holds its
    own.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    members = []
    for k, (tensors, noise) in enumerate(zip(ensemble.members.to_tensors(), ensemble.noise, strict=True)):
        written = _write_tensors(folder / f"member-{k}.safetensors", tensors)
        members.append({**written, "seed": ensemble.settings.member_seeds[k], "noise": noise})
    files = [*_save_stacking(ensemble, folder), *_save_distance(ensemble, folder)]
    if ensemble.lower_fidelity is not None:
        save_ensemble(ensemble.lower_fidelity, folder / _LOWER, backbones)
    record = {
        "property": ensemble.property,
        "scale": ensemble.scale,
        "settings": asdict(ensemble.settings),
        "backbone": _save_backbone(ensemble.backbone, folder, backbones),
        "calibration": ensemble.calibration,
        "shares": dict(ensemble.stacking.weights) if ensemble.stacking else {},
        "widening": {name: list(numbers) for name, numbers in asdict(ensemble.variance_inflation).items()},
        "members": members,
        "files": files,
        "data_hash": ensemble.data_hash,
        "metrics": ensemble.metrics,
        "seen": list(ensemble.seen),
    }
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    return record


def load_ensemble(folder: Path | str, potential_python: str = "") -> Ensemble:
    """Read an ensemble written by :func:`save_ensemble`, or a shipped one by its name.

    ``potential_python`` is the Python of the environment in which potentials among its backbones run, where that is
    another than the one that the model was trained with.

    Raises
    ------
    ModelFileError
        If there is none, a file is not what the record says, or a Python is given and there is no potential.
    """
    from safetensors.torch import load

    folder = model_folder(folder) or Path(folder)
    record = read_record(folder)
    backbone = stacked([_load_backbone(folder, part, potential_python) for part in backbone_parts(record)])
    if potential_python and not any(isinstance(part, PotentialBackbone) for part in backbone.parts):
        raise ModelFileError(
            f"potential_python = {potential_python!r} is for a model with a potential among its backbones, and "
            f"{folder} stands on {backbone.name}; leave it out"
        )
    settings = EnsembleSettings(**{**record["settings"], "schedule": Schedule(**record["settings"]["schedule"])})
    tensors = [load(_read_checked(folder / member["path"], member["sha256"])) for member in record["members"]]
    lower = load_ensemble(folder / _LOWER, potential_python) if (folder / _LOWER / RECORD).is_file() else None
    kind, process = settings.members_class, None
    if lower is not None:
        kind, process = kind.above_lower_fidelity(), lower.members.process
    kind = kind.of_tensors(tensors[0])
    files = {f["path"]: load(_read_checked(folder / f["path"], f["sha256"])) for f in record["files"]}
    return Ensemble(
        backbone=backbone,
        settings=settings,
        property=record["property"],
        scale=record["scale"],
        members=kind.from_tensors(tensors, backbone, process),
        noise=tuple(m["noise"] for m in record["members"]),
        calibration=record["calibration"],
        metrics=record["metrics"],
        data_hash=record["data_hash"],
        seen=tuple(record["seen"]),
        lower_fidelity=lower,
        stacking=Stacking.from_files(files, backbone, _weights(record)),
        variance_inflation=VarianceInflation(**{name: tuple(v) for name, v in record["widening"].items()}),
        distance=_distance(files[_DISTANCE]) if _DISTANCE in files else None,
    )


def load_starts(names: str | Path | Sequence[str | Path]) -> AnyBackbone:
    """Load what to start from: one backbone, or several to be read side by side.

    Each is named as for :func:`load_backbone`; is a potential, ``family:model`` or ``package.module:Callable``; or is a
    trained model of ours: one whose members are fine-tuned networks gives the first of them, any other the backbone or
    backbones it stands on.

    Raises
    ------
    BackboneError
        If one is named twice, or they have no element in common.
    """
    return stacked([_start(name) for name in ([names] if isinstance(names, str | Path) else names)])


def cached_starts(names: str | Path | Sequence[str | Path]) -> AnyBackbone:
    """As :func:`load_starts`, but read only once for as long as the files of each folder stay what they are."""
    given = [names] if isinstance(names, str | Path) else names
    return _load_once(tuple(map(str, given)), tuple(_files_of(Path(name)) for name in given))


@lru_cache(maxsize=4)
def _load_once(names: tuple[str, ...], files: tuple[tuple[_File, ...], ...]) -> AnyBackbone:
    return load_starts(names)


def _files_of(folder: Path) -> tuple[_File, ...]:
    """Files of a folder, none of a name that is no folder, e.g. of a shipped backbone."""
    return tuple(_File.of(path, folder) for path in sorted(folder.rglob("*")) if path.is_file())


class _File(NamedTuple):
    """What tells whether a file is still the same, without reading weights."""

    name: str
    size: int
    modified: int
    """Nanoseconds since 1970."""
    text: bytes
    """Of a card or record, which holds the SHA-256 of the weights beside it: a copy may keep size and time."""

    @classmethod
    def of(cls, path: Path, folder: Path) -> _File:
        status = path.stat()
        text = path.read_bytes() if path.suffix == ".json" else b""
        return cls(str(path.relative_to(folder)), status.st_size, status.st_mtime_ns, text)


def load_start(name: str | Path) -> Backbone:
    """Load the one backbone that ``name`` stands for, as :func:`load_starts`; refuse a model on several."""
    start = load_starts(name)
    if isinstance(start, PotentialBackbone):
        raise BackboneError(f"{name} is a potential, which gives embeddings only; name a backbone of ours or of MatGL")
    if not isinstance(start, Backbone):
        raise BackboneError(f"{name} stands on {len(start.parts)} backbones ({start.name}); name one of them")
    return start


def _start(name: str | Path) -> AnyBackbone:
    if is_calculator_spec(str(name)):
        family, _, model = str(name).partition(":")
        here = family == "matgl" and "?" not in model  # its networks are loaded, and repaired where they are old
        return load_backbone(model) if here else load_potential_backbone(str(name))
    folder = model_folder(name)
    if folder is None or (Path(name) / CARD).is_file():
        return load_backbone(name)
    ensemble = load_ensemble(folder)
    tuned = ensemble.members.network
    if tuned is None:
        return ensemble.backbone
    before, property_ = ensemble.backbone.trained[0].card, ensemble.property
    stage = {"start": folder.name, "properties": [property_], "data_hash": ensemble.data_hash}
    seen = {**before.get("seen", {})}
    seen[property_] = sorted({*seen.get(property_, ()), *ensemble.seen})
    card = {**before, "lineage": [*before.get("lineage", []), stage], "seen": seen}
    return Backbone(f"{folder.name}/member-0", tuned.network, card)


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
        if not (home / CARD).is_file() or isinstance(part, PotentialBackbone):  # its Python may be elsewhere now
            part.save(home)
        parts.append({"name": part.name, "sha256": part.sha256, "path": os.path.relpath(home, folder)})
    if len(parts) == 1:
        return parts[0]
    return {"name": backbone.name, "sha256": backbone.sha256, "parts": parts}


def _load_backbone(folder: Path, recorded: Mapping[str, str], potential_python: str) -> BackbonePart:
    home = folder / recorded["path"]
    backbone: BackbonePart
    if (home / POTENTIAL).is_file():
        kept = PotentialBackbone.of_folder(home)
        backbone = kept.in_python(potential_python) if potential_python else kept
    else:
        backbone = load_backbone(home)
    if backbone.sha256 != recorded["sha256"]:
        raise ModelFileError(
            f"{folder} was trained on backbone {recorded['sha256'][:12]}..., {recorded['path']} is "
            f"{backbone.sha256[:12]}...; restore the backbone or train again"
        )
    return backbone


def _save_stacking(ensemble: Ensemble, folder: Path) -> list[dict[str, str]]:
    models = ensemble.stacking.models.values() if ensemble.stacking else ()
    contents = [content for model in models for content in model.to_files().items()]
    return [_write_tensors(folder / name, tensors) for name, tensors in contents]


def _weights(record: Mapping[str, Any]) -> dict[str, float]:
    """Weights of the models beside the members; records made before trees were among them have the networks' alone."""
    return dict(record["shares"]) if "shares" in record else {"networks": record["network_share"]}


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
