"""Recipes as JSON: those shipped with this package, by name, and a user's own."""

from __future__ import annotations

import difflib
import json
from dataclasses import fields
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from engine.exceptions import TrainingError
from engine.learning.networks.schedule import Schedule
from engine.learning.pretraining.stage import Recipe, Stage
from engine.learning.pretraining.tasks import PropertyTask

_PARTS = {"tasks": PropertyTask, "schedule": Schedule}
"""Keys of a stage that have keys of their own."""
_OWN = ("description", "stages")


def read_recipe(name: str | Path) -> Recipe:
    """Read a recipe shipped with this package (by name) or a JSON file.

    A recipe is ``{"description": ..., "stages": [{...}, ...]}``, a stage with the fields of
    :class:`engine.learning.pretraining.stage.Stage`; one of a single stage may be that stage alone.

    Raises
    ------
    FileNotFoundError
        If there is none.
    TrainingError
        If it cannot be read, or has keys or values that are not known; the message names each with its stage.
    """
    folder = resources.files("engine.learning") / "recipes"
    shipped = folder / f"{name}.json"
    if not shipped.is_file() and not Path(name).is_file():
        raise FileNotFoundError(f"no recipe {str(name)!r}; give a JSON file or one of {', '.join(shipped_recipes())}")
    try:
        text = shipped.read_text() if shipped.is_file() else Path(name).read_text(encoding="utf-8")
        return _recipe(Path(name).stem, json.loads(text))
    except (ValueError, TrainingError) as error:
        raise TrainingError(f"recipe {name} cannot be read: {error}; compare it with a shipped one") from error


def read_stage(data: Any) -> Stage:
    """Stage of a recipe, or of a backbone's card.

    Raises
    ------
    TrainingError
        If a key or a value is not known.
    """
    try:
        # as JSON, because strict types then still admit a list for a tuple
        return _stages().validate_json(json.dumps([data]))[0]
    except ValidationError as error:
        raise TrainingError("; ".join(_explain(problem) for problem in error.errors())) from error


def shipped_recipes() -> tuple[str, ...]:
    """Names of the recipes inside this package."""
    folder = resources.files("engine.learning") / "recipes"
    return tuple(sorted(p.name.removesuffix(".json") for p in folder.iterdir() if p.name.endswith(".json")))


@cache
def _stages() -> TypeAdapter[list[Stage]]:
    return TypeAdapter(list[Stage], config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))


def _recipe(name: str, data: Any) -> Recipe:
    if not isinstance(data, dict) or not ("stages" in data or "tasks" in data):
        raise TrainingError("it is no object with stages, nor a stage with tasks")
    whole = data if "stages" in data else {"stages": [data]}
    if unknown := [key for key in whole if key not in _OWN]:
        raise TrainingError(f"unknown key {unknown[0]!r} beside the stages; {_hint(unknown[0], _OWN)}")
    if not isinstance(whole["stages"], list):
        raise TrainingError(f"stages = {whole['stages']!r} is no list")
    stages = []
    for number, given in enumerate(whole["stages"], start=1):
        try:
            stages.append(read_stage(given))
        except TrainingError as error:
            called = f" ({given['name']})" if isinstance(given, dict) and "name" in given else ""
            raise TrainingError(f"stage {number}{called}: {error}") from error
    return Recipe(name, tuple(stages), str(whole.get("description", "")))


def _explain(problem: Any) -> str:
    """Message of one problem of a stage, with the place of its key."""
    *above, key = [str(part) for part in problem["loc"][1:]] or ["it"]
    where = "".join(f" in {part}" for part in above[:1])
    if problem["type"] != "unexpected_keyword_argument":
        return f"{key}{where} is {json.dumps(problem['input'])}: {problem['msg'].lower()}"
    return f"unknown key {key!r}{where}; {_hint(key, [f.name for f in fields(_PARTS[above[0]] if above else Stage)])}"


def _hint(key: str, known: Any) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    if not close and key in {f.name for f in fields(Schedule)}:
        return "it belongs into schedule"
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
