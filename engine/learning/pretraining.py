"""Multi-property pre-training: one body and trunk, one head per property, any subset of properties per crystal.

After Devi, Butler and Gopalakrishnan, npj Comput. Mater. 10, 300 (2024), with two changes: the loss is averaged over
the labels a property really has and then over properties, so that a large set does not drown a small one; and
properties are standardised on training rows, ``log10`` first where they span decades.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from engine.exceptions import TooFewLabelsError, TrainingError
from engine.graphs.crystal_graph import build_graph
from engine.learning.backbone import Backbone
from engine.learning.composition import composition_statistics
from engine.learning.seeding import seeded
from engine.learning.training import Epoch, GraphData, Schedule, predict_network, train_network
from engine.metrics.accuracy import accuracy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.materials.crystal import Material

MIN_LABELS = 50


@dataclass(frozen=True)
class PropertyTask:
    """One property to learn: its name in the materials' ``properties`` and the scale it is learned on."""

    name: str
    scale: Literal["log10", "linear"] = "linear"


@dataclass(frozen=True)
class PretrainingRecipe:
    """All that decides the outcome of a pre-training, besides the materials and the starting weights."""

    tasks: tuple[PropertyTask, ...]
    schedule: Schedule = field(default_factory=lambda: Schedule(epochs=20, batch_size=64))
    held_out_fraction: float = 0.05
    """Chemical formulas never trained on; they give the table of the model card."""
    max_sites: int = 60
    trunk_size: int = 128
    seed: int = 0


def pretrain(
    name: str,
    start: Backbone,
    materials: Sequence[Material],
    recipe: PretrainingRecipe,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Backbone:
    """Train the body of ``start`` with a fresh trunk and heads on ``materials``; returns the new backbone.

    Materials with more than ``max_sites`` sites, an element unknown to the body or none of the properties are left out;
    their number is in the card.

    Raises
    ------
    TooFewLabelsError
        If a property has fewer than 50 labels, or labels that are all equal.
    """
    import torch

    from engine.learning.network import GraphNetwork

    names = [t.name for t in recipe.tasks]
    usable = [m for m in materials if _is_usable(m, start, recipe)]
    values = _targets(usable, recipe.tasks)
    held_out = _held_out(usable, recipe)
    scaled, centre, width = _standardise(values, ~held_out)
    data = GraphData(
        graphs=[build_graph(m.crystal, start.cutoff) for m in usable],
        statistics=composition_statistics(m.crystal for m in usable),
        targets=scaled,
        node_types=start.node_types,
    )
    with seeded(recipe.seed):
        body = copy.deepcopy(start.body)
        network = GraphNetwork(body, start.network.readout_size, names, recipe.trunk_size)
    training = np.flatnonzero(~held_out)
    network.fit_statistics(torch.from_numpy(data.statistics[training]))
    history = train_network(network, data, training, recipe.schedule, recipe.seed, on_epoch)
    card = {
        "recipe": asdict(recipe),
        "start": {"name": start.name, "sha256": start.sha256},
        "materials": {
            "given": len(materials),
            "used": len(usable),
            "held_out": int(held_out.sum()),
            "sha256": materials_hash(usable),
        },
        "scaling": {
            t.name: {"scale": t.scale, "mean": float(c), "std": float(w)}
            for t, c, w in zip(recipe.tasks, centre, width, strict=True)
        },
        "held_out": _held_out_table(network, data, held_out, recipe.tasks, width),
        "history": [asdict(e) for e in history],
        "seen": _seen(usable, recipe.tasks),
        "lineage": [*start.card.get("lineage", []), {"start": start.name, "properties": names}],
    }
    return Backbone(name, network, card)


def read_recipe(name: str | Path) -> PretrainingRecipe:
    """Read a recipe shipped with this package (by name) or a JSON file."""
    folder = resources.files("engine.learning") / "recipes"
    shipped = folder / f"{name}.json"
    if shipped.is_file():
        text = shipped.read_text()
    elif Path(name).is_file():
        text = Path(name).read_text()
    else:
        known = sorted(p.name.removesuffix(".json") for p in folder.iterdir())
        raise FileNotFoundError(f"no recipe {str(name)!r}; give a JSON file or one of {', '.join(known)}")
    try:
        data = json.loads(text)
        tasks = tuple(PropertyTask(**task) for task in data.pop("tasks"))
        if "schedule" in data:
            data["schedule"] = Schedule(**data["schedule"])
        return PretrainingRecipe(tasks=tasks, **data)
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"recipe {name} cannot be read ({error}); compare it with a shipped one") from error


def merge_copies(materials: Iterable[Material]) -> list[Material]:
    """One material a crystal: copies of it (same content hash) give their properties to the first."""
    merged: dict[str, Material] = {}
    for material in materials:
        first = merged.setdefault(material.content_hash, material)
        if first is not material:
            both = {**material.properties, **first.properties}
            merged[material.content_hash] = replace(first, properties=both)
    return list(merged.values())


def materials_hash(materials: Sequence[Material]) -> str:
    """SHA-256 over content hashes and properties, in order-free form."""
    lines = sorted(f"{m.content_hash} {sorted(m.properties.items())}" for m in materials)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _is_usable(material: Material, start: Backbone, recipe: PretrainingRecipe) -> bool:
    fits = len(material.crystal) <= recipe.max_sites and set(material.crystal.symbols) <= start.elements
    return fits and any(math.isfinite(_number(material.properties, task.name)) for task in recipe.tasks)


def _seen(materials: Sequence[Material], tasks: Sequence[PropertyTask]) -> dict[str, list[str]]:
    """First 12 hex digits of the content hash of every crystal a property was known of, so that leaks can be found."""
    return {t.name: sorted(m.content_hash[:12] for m in materials if t.name in m.properties) for t in tasks}


def _targets(materials: Sequence[Material], tasks: Sequence[PropertyTask]) -> NDArray[np.float64]:
    values = np.array([[_number(m.properties, t.name) for t in tasks] for m in materials], dtype=np.float64)
    for column, task in enumerate(tasks):
        if task.scale == "log10":
            positive = values[:, column] > 0
            values[~positive, column] = np.nan
            values[positive, column] = np.log10(values[positive, column])
        known = values[np.isfinite(values[:, column]), column]
        if len(known) < MIN_LABELS:
            raise TooFewLabelsError(
                f"property {task.name!r} has {len(known)} usable labels, {MIN_LABELS} are needed; "
                "check its name or leave it out"
            )
        if np.ptp(known) == 0:
            raise TooFewLabelsError(
                f"all {len(known)} labels of {task.name!r} are equal ({known[0]:g}); leave this property out"
            )
    return values


def _number(properties: Mapping[str, Any], name: str) -> float:
    value = properties.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return np.nan


def _held_out(materials: Sequence[Material], recipe: PretrainingRecipe) -> NDArray[np.bool_]:
    """By formula, so that a polymorph of a trained compound is not counted as unseen; stable when rows are added."""
    digests = [hashlib.sha256(f"{recipe.seed} {m.formula}".encode()).digest() for m in materials]
    return np.array([int.from_bytes(d[:4], "big") / 2**32 < recipe.held_out_fraction for d in digests])


def _standardise(
    values: NDArray[np.float64], training: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    centre = np.nanmean(values[training], axis=0)
    width = np.nanstd(values[training], axis=0)
    return ((values - centre) / width).astype(np.float32), centre, width


def _held_out_table(
    network: Any,
    data: GraphData,
    held_out: NDArray[np.bool_],
    tasks: Sequence[PropertyTask],
    width: NDArray[np.float64],
) -> dict[str, dict[str, float | int | None]]:
    rows = np.flatnonzero(held_out)
    predicted = predict_network(network, data, rows)
    table: dict[str, dict[str, float | int | None]] = {}
    for column, task in enumerate(tasks):
        known = np.isfinite(data.targets[rows, column])
        table[task.name] = {
            "labels_trained": int(np.isfinite(data.targets[~held_out, column]).sum()),
            "labels_held_out": int(known.sum()),
        }
        if known.any():
            truth, guess = data.targets[rows, column][known].astype(float), predicted[known, column].astype(float)
            found = accuracy(truth, guess, scale="linear")
            table[task.name] |= {
                "mae": found.mae * float(width[column]),
                "mae_of_the_mean": float(np.abs(truth).mean()) * float(width[column]),
                "spearman": found.spearman,
            }
    return table
