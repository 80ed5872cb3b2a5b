"""Records of trained models: where a model is, shipped ones by name, and what its JSON record says.

Nothing heavy is imported: a command that only looks at a model need not wait for torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from engine.exceptions import ModelFileError

RECORD = "ensemble.json"
SEEN_DIGITS = 12
"""Hex digits of a content hash that a model keeps of each crystal it was trained on."""
_SHIPPED = "engine.learning.models"


def shipped_models() -> tuple[str, ...]:
    """Names of the trained models that are shipped."""
    folders = Path(str(resources.files(_SHIPPED)))
    return tuple(sorted(path.parent.name for path in folders.glob(f"*/{RECORD}")))


def model_folder(name: str | Path, relative_to: Path | str = "") -> Path | None:
    """Folder of a trained model: one that `train` wrote, or a shipped one by its name; ``None`` if there is neither.

    ``relative_to`` is where a path that is not absolute begins.
    """
    if not str(name):
        return None
    folder = Path(relative_to) / name
    if (folder / RECORD).is_file():
        return folder
    return Path(str(resources.files(_SHIPPED))) / str(name) if str(name) in shipped_models() else None


def read_record(folder: Path | str) -> dict[str, Any]:
    """Read the JSON record of a trained ensemble."""
    path = (model_folder(folder) or Path(folder)) / RECORD
    if not path.is_file():
        raise ModelFileError(
            f"{folder} holds no {RECORD}, so it is no trained model; give a folder that `train` wrote, or a shipped "
            f"model: {', '.join(shipped_models())}"
        )
    try:
        return dict(json.loads(path.read_text()))
    except ValueError as error:
        raise ModelFileError(f"{path} is not JSON ({error}); restore it or train again") from error


def backbone_parts(record: Mapping[str, Any]) -> list[dict[str, str]]:
    """Name, SHA-256 and folder (relative to the model's) of each backbone that a recorded ensemble stands on."""
    return list(record["backbone"].get("parts", [record["backbone"]]))
