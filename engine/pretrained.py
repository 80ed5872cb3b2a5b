"""MatGL's model files: found by path or name, and read completely or refused.

MatGL loads with ``strict=False``, and only warns of weights whose meaning has changed; both give wrong numbers
silently, so that both are errors here.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from engine.exceptions import EngineError

if TYPE_CHECKING:
    from torch import nn

FILES = ("model.json", "model.pt", "state.pt")
WEIGHTS = "state.pt"
_ORGANISATION = "materialyze"  # where MatGL looks for a name without owner
_MADE_BY_NEWER = "element_refs.onehot"
"""Tensor that newer versions of MatGL compute themselves."""


def find_model(name: str | Path, kind: str, others: str, error: type[EngineError]) -> Path:
    """Folder of a MatGL model: the one given, or the cached copy of the model of this name from MatGL's hub.

    ``kind`` (backbone, potential) and ``others``, alternatives, are for messages; raises ``error``.
    """
    path = Path(name)
    if path.exists() or len(path.parts) > 2 or str(name).startswith((".", "/")):
        absent = [file for file in FILES if not (path / file).is_file()]
        if absent:
            raise error(
                f"{name} holds no complete MatGL model ({', '.join(absent)} missing), so it is not a {kind}; give the "
                f"folder of one, a MatGL name, or {others}"
            )
        return path
    from huggingface_hub import hf_hub_download
    from matgl.config import MATGL_CACHE

    repository = str(name) if "/" in str(name) else f"{_ORGANISATION}/{name}"
    try:
        files = [hf_hub_download(repository, file, cache_dir=str(MATGL_CACHE)) for file in FILES]
    except (OSError, ValueError) as failed:
        reason = next(iter(str(failed).strip().splitlines()), type(failed).__name__)
        raise error(
            f"no {kind} {str(name)!r}: no such folder, and it cannot be fetched from {repository} on the Hugging "
            f"Face hub ({reason}); without a network give a folder on disk, or {others}"
        ) from failed
    return Path(files[0]).parent


def model_class(folder: Path) -> str:
    """Name of the MatGL class that a folder holds, e.g. ``Potential``."""
    return str(json.loads((folder / FILES[0]).read_text()).get("@class", ""))


def read_model(name: str | Path, folder: Path, error: type[EngineError], *, old: bool = False) -> nn.Module:
    """Load a MatGL model with every tensor of its file; ``old`` weights are accepted, to be repaired.

    Raises ``error`` if MatGL cannot load them, if their meaning has changed, or if not all tensors match.
    """
    import matgl
    import torch
    from matgl.data.transformer import Normalizer

    advice = "get the current weights of this model"
    try:
        # a Normalizer is pickled into models that scale their own output; torch has to be told to accept it
        with warnings.catch_warnings(record=True) as noted, torch.serialization.safe_globals([Normalizer]):
            warnings.simplefilter("always")
            model: nn.Module = matgl.load_model(folder)
    except (OSError, ValueError, RuntimeError) as failed:
        raise error(f"MatGL cannot load {name} ({failed.__cause__ or failed}); {advice}") from failed
    for note in noted:
        if not str(note.message).startswith("Incompatible model version"):
            warnings.warn_explicit(note.message, note.category, note.filename, note.lineno)
        elif not old:  # MatGL continues, with wrong numbers
            raise error(
                f"the weights of {name} have another meaning in the installed MatGL ({matgl.__version__}); {advice}"
            )
    stored = set(torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True)) - {_MADE_BY_NEWER}
    expected = set(model.state_dict()) - {_MADE_BY_NEWER}
    if stored != expected:
        raise error(
            f"{name} stores {len(stored)} tensors, {type(model).__name__} has {len(expected)} "
            f"(differing: {', '.join(sorted(stored ^ expected)[:3])}); {advice}"
        )
    return model
