"""Recipes as JSON: those shipped with this package, by name, and a user's own."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from engine.exceptions import TrainingError
from engine.learning.stages import Recipe, Stage
from engine.learning.tasks import PropertyTask
from engine.learning.training import Schedule


def read_recipe(name: str | Path) -> Recipe:
    """Read a recipe shipped with this package (by name) or a JSON file.

    A recipe is ``{"description": ..., "stages": [{...}, ...]}``, a stage with the fields of
    :class:`engine.learning.stages.Stage`; one of a single stage may be that stage alone.

    Raises
    ------
    FileNotFoundError
        If there is none.
    TrainingError
        If it cannot be read, or asks for what is not known.
    """
    folder = resources.files("engine.learning") / "recipes"
    shipped = folder / f"{name}.json"
    if shipped.is_file():
        text = shipped.read_text()
    elif Path(name).is_file():
        text = Path(name).read_text()
    else:
        raise FileNotFoundError(f"no recipe {str(name)!r}; give a JSON file or one of {', '.join(shipped_recipes())}")
    try:
        data = json.loads(text)
        if "stages" not in data:
            data = {"stages": [{"tasks": data.pop("tasks"), **data}]}
        stages = tuple(read_stage(stage) for stage in data.pop("stages"))
        return Recipe(Path(name).stem, stages, **data)
    except (ValueError, KeyError, TypeError, AttributeError, TrainingError) as error:
        raise TrainingError(f"recipe {name} cannot be read ({error}); compare it with a shipped one") from error


def read_stage(data: dict[str, Any]) -> Stage:
    """Stage of a recipe, or of a backbone's card."""
    tasks = tuple(PropertyTask(**task) for task in data.get("tasks", ()))
    given = {**data, "tasks": tasks}
    if "schedule" in data:
        given["schedule"] = Schedule(**data["schedule"])
    return Stage(**given)


def shipped_recipes() -> tuple[str, ...]:
    """Names of the recipes inside this package."""
    folder = resources.files("engine.learning") / "recipes"
    return tuple(sorted(p.name.removesuffix(".json") for p in folder.iterdir() if p.name.endswith(".json")))
