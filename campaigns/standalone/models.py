"""Models outside a campaign: trained and pre-trained on files alone."""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from campaigns.exceptions import CampaignError
from campaigns.goals import Scale, default_scale, flaw
from campaigns.models.lineage import answers_seen
from campaigns.output import Count
from campaigns.property_names import Property
from engine.execution import cores
from engine.learning.heads.kinds import GAUSSIAN_PROCESS
from engine.materials.checks import Rejection
from engine.materials.crystal import Material
from engine.metrics.splits import split_materials

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from campaigns.campaign import Campaign
    from engine.learning.ensemble.ensemble import Ensemble
    from engine.learning.pretraining.stage import Recipe
    from engine.learning.pretraining.tasks import DataSet
    from engine.metrics.splits import SplitSettings

Say = Callable[[str], None]
_COPY = "copies of another crystal"
_ROUNDED = 0.01
"""Values that differ by no more than this part are the same, rounded."""
_NOT_GIVEN = "(not given)"
_MOST_LINES = 10
"""Doubtful labels that are named."""
_KNOWN_SHARE = 0.8
"""A property that fewer of the materials have is not worth a head of a network."""


@dataclass(frozen=True)
class TrainRequest:
    """What ``kappascout train`` was asked for."""

    files: Sequence[Path]
    property: str
    out: Path
    start: str | Sequence[str] = ""
    """Backbone or trained model, or several to be read side by side; the two shipped for this if empty."""
    strategy: str = "auto"
    head: str = GAUSSIAN_PROCESS.name
    members: int = 5
    seed: int = 0
    scale: Literal["log10", "linear"] | None = None
    epochs: int = 30
    auxiliaries: bool = True
    """Whether networks learn the records' other numbers beside the property."""
    potential_python: str = ""
    """Python of another environment, in which potentials among the backbones run."""
    split: SplitSettings | None = None
    """Split on which a model trained the same way is tested before the model is trained on all rows."""


def train_model(request: TrainRequest, say: Say) -> dict[str, Any]:
    """Train on labelled crystals of files and write the model; returns its record.

    With a split, ``metrics["split"]`` of the record has the figures on its test rows of a model that was trained on its
    training rows alone; the model that is written is trained on all rows.
    """
    from engine.learning.backbones.backbone import SIDE_BY_SIDE
    from engine.learning.backbones.stack import make_featuriser
    from engine.learning.ensemble.records import RECORD
    from engine.learning.ensemble.settings import EnsembleSettings
    from engine.learning.ensemble.split_evaluation import evaluate_split
    from engine.learning.ensemble.storage import load_starts, save_ensemble
    from engine.learning.ensemble.training import Labels, train_ensemble
    from engine.learning.networks.effort import effort_warning
    from engine.learning.networks.finetune import check_start, fine_tuning
    from engine.physics.calculator_specs import with_python_each

    if (request.out / RECORD).exists():
        raise CampaignError(f"{request.out} holds a trained model already; choose another folder")
    scale = request.scale or default_scale(request.property)
    start = (request.start,) if isinstance(request.start, str) and request.start else request.start
    backbone = load_starts(with_python_each(start or SIDE_BY_SIDE, request.potential_python))
    settings = EnsembleSettings(
        request.strategy, request.head, request.members, request.seed, fine_tuning(request.epochs)
    )
    if settings.networks:
        check_start(backbone, settings.strategy)
    with tempfile.TemporaryDirectory(prefix="kappascout-train-") as cache:
        materials = _labelled(request.files, request.property, scale, backbone.elements, say)
        split = None
        if request.split is not None:
            values = [float(m.properties[request.property]) for m in materials.values()]
            split = split_materials(request.split, list(materials.values()), values)
        featuriser = make_featuriser(backbone, cache)
        featuriser.add(
            {key: m.crystal for key, m in materials.items()},
            lambda name, done: say(Count(f"{done} of {len(materials)} crystals embedded by {name}")),
        )
        say(f"{len(materials)} labelled crystals embedded")
        if known := answers_seen(backbone, request.property, materials):
            say(known)
        workers = cores()
        if hours := effort_warning(featuriser, list(materials), settings.resolved(len(materials), backbone), workers):
            say(hours)
        labels = Labels(
            list(materials),
            Scale(scale).learned([float(m.properties[request.property]) for m in materials.values()]),
            request.property,
            scale,
            _auxiliaries(list(materials.values()), request.property) if request.auxiliaries else {},
        )
        held_out: dict[str, object] = {}
        if split is not None:
            say(f"{split.describe()}; training on the training rows alone")
            held_out["split"] = evaluate_split(featuriser, labels, settings, split, progress=say, workers=workers)
            say(f"training on all {len(materials)} rows")
        ensemble = train_ensemble(featuriser, labels, settings, progress=say, workers=workers)
    for line in _contradicted(materials, ensemble, Scale(scale), request.property):
        say(line)
    return save_ensemble(replace(ensemble, metrics={**ensemble.metrics, **held_out}), request.out)


def _contradicted(materials: dict[str, Material], ensemble: Ensemble, scale: Scale, property_: str) -> Iterator[str]:
    """A line for each label that the others contradict, at most ten."""
    from engine.learning.ensemble.evaluation import contradicted

    records, unit = list(materials.values()), Property(property_).unit
    rows = contradicted(scale.learned([float(m.properties[property_]) for m in records]), ensemble.held_out)
    for row in rows[:_MOST_LINES]:
        m, (mean, std) = records[row], ensemble.held_out[row]
        value = float(m.properties[property_])
        away = abs(float(scale.learned(value)) - mean) / std
        yield (
            f"doubtful label: {m.id} ({m.formula}) has {property_} = {value:.3g}{f' {unit}' if unit else ''}, the "
            f"others say {float(scale.true(mean)):.3g} ({away:.0f} standard deviations away); check it"
        )
    if len(rows) > _MOST_LINES:
        yield f"... and {len(rows) - _MOST_LINES} more doubtful labels"


@dataclass(frozen=True)
class PretrainRequest:
    """What ``kappascout pretrain`` was asked for."""

    recipe: str
    out: Path
    files: Sequence[Path] = ()
    """Crystals of a recipe that needs one set of data."""
    data: Sequence[str] = ()
    """``ROLE=FILE[:FIELD[@FIDELITY]]``: crystals of a data set, a property to learn, the fidelity of its labels."""
    start: str = ""
    """In place of the recipe's own."""
    skip: Sequence[str] = ()
    """Stages left out."""


def pretrain_backbone(request: PretrainRequest, say: Say) -> list[dict[str, object]]:
    """Train the stages of a recipe and write the last backbone; returns errors on held-out formulas, stage by stage.

    The stages are kept in ``stages`` of the folder written; an interrupted recipe goes on from there.
    """
    from engine.learning.backbones.backbone import CARD
    from engine.learning.pretraining.recipes import read_recipe
    from engine.learning.pretraining.stage import PREVIOUS
    from engine.learning.pretraining.stages import run_stages

    if (request.out / CARD).exists():
        raise CampaignError(f"{request.out} holds a backbone already; choose another folder")
    recipe = read_recipe(request.recipe).without(request.skip)
    if not request.start and recipe.stages[0].start == PREVIOUS:
        raise CampaignError(f"recipe {recipe.name} does not say what it starts from; give --from MODEL")
    data = _data_sets(recipe, request, say)
    stages = list(run_stages(recipe, data, request.out / "stages", request.start or None, say))
    stages[-1].save(request.out)
    return [
        {"stage": stage.name, "property": name, **row}
        for stage, made in zip(recipe.stages, stages, strict=True)
        for name, row in made.card["held_out"].items()
    ]


def _data_sets(recipe: Recipe, request: PretrainRequest, say: Say) -> dict[str, DataSet]:
    """Materials by role, each with the properties that were named for it."""
    from engine.learning.pretraining.tasks import DataSet, PropertyTask, merge_copies
    from engine.materials.loading import load

    given = [_parse_data(text) for text in request.data]
    unknown = sorted({role for role, *_ in given} - set(recipe.roles))
    if unknown:
        raise CampaignError(f"recipe {recipe.name} has no data {', '.join(unknown)}; it has {', '.join(recipe.roles)}")
    if request.files and len(recipe.roles) > 1:
        raise CampaignError(
            f"recipe {recipe.name} needs {len(recipe.roles)} sets of data; give each as --data ROLE=FILE, "
            f"for {', '.join(recipe.roles)}"
        )
    given += [(recipe.roles[0], path, "", "") for path in request.files]
    if not given:
        ways = "FILE..., or " if len(recipe.roles) == 1 else ""
        raise CampaignError(
            f"recipe {recipe.name} was given no crystals; give {ways}--data ROLE=FILE for {', '.join(recipe.roles)}"
        )
    sets = {}
    for role in dict.fromkeys(role for role, *_ in given):
        files = list(dict.fromkeys(path for r, path, *_ in given if r == role))
        outcomes = [outcome for part in load(files) for outcome in part]
        records = [o for o in outcomes if isinstance(o, Material)]
        materials = merge_copies(records)
        say(f"{role}: {len(materials)} crystals, {len(outcomes) - len(materials)} copies or refused records left out")
        named = [(name, fidelity) for r, _, name, fidelity in given if r == role]
        tasks = tuple(PropertyTask(name, default_scale(name)) for name in dict.fromkeys(n for n, _ in named if n))
        learned = tasks or tuple(task for stage in recipe.stages if stage.data == role for task in stage.tasks)
        names = [task.name for task in learned]
        if odd := _disagreeing(records, names):
            say(f"{role}: {odd} copies give another value than the first, which counts (labels of two fidelities?)")
        fidelities = {name: _fidelities_of(name, named, records) for name in names}
        sets[role] = DataSet(materials, tasks, fidelities)
    return sets


def _fidelities_of(name: str, named: Sequence[tuple[str, str]], records: Sequence[Material]) -> set[str]:
    """Fidelities among the labels of a property, as the request names them or else the records themselves.

    Labels without one beside labels with one count as of another.
    """
    told = {fidelity for field, fidelity in named if field in (name, "")}
    if told - {""}:
        return {fidelity or _NOT_GIVEN for fidelity in told}
    return set(_fidelities(m for m in records if name in m.properties))


def _disagreeing(records: Sequence[Material], names: Sequence[str]) -> int:
    """Count copies of a crystal that give a property another value than its first record."""
    first: dict[str, Material] = {}
    return sum(not _agree(first.setdefault(m.content_hash, m), m, names) for m in records)


def _parse_data(text: str) -> tuple[str, Path, str, str]:
    """Role, file, field and fidelity; the last two may be empty."""
    role, given, rest = text.partition("=")
    path, colon, named = rest.rpartition(":")
    if not colon or Path(rest).exists():
        path, named = rest, ""
    name, _, fidelity = named.partition("@")
    if not role or not given or not path:
        raise CampaignError(f"--data {text!r} is not ROLE=FILE[:FIELD[@FIDELITY]], e.g. agl=aflow.jsonl.gz:kappa@agl")
    return role, Path(path), name, fidelity


def verify_models(campaign: Campaign) -> list[dict[str, str]]:
    """State of every checkpoint of every model, and of the backbones they stand on: intact, changed or missing."""
    from engine.learning.backbones.backbone import WEIGHTS
    from engine.learning.backbones.potential_backbone import POTENTIAL

    checkpoints: dict[tuple[str, str], str] = {}
    for record in campaign.store.models():
        checkpoints |= {(record.model_id, member.path): member.sha256 for member in record.members}
        checkpoints |= {(record.model_id, file["path"]): file["sha256"] for file in record.stage.get("files", ())}
        if "kind" not in record.stage:  # kept before backbones were models of their own
            backbone = f"artifacts/backbones/{record.backbone_hash[:32]}/{WEIGHTS}"
            checkpoints[record.model_id, backbone] = record.backbone_hash
    listed = {path for _, path in checkpoints}
    for home in sorted((campaign.artifacts / "backbones").glob("*")):  # also one that was known as an ancestor before
        file = POTENTIAL if (home / POTENTIAL).is_file() else WEIGHTS
        path = f"artifacts/backbones/{home.name}/{file}"
        if path not in listed:
            checkpoints["backbone", path] = home.name  # the beginning of its hash
    return [
        {"model": model, "checkpoint": path, "state": _state(campaign.directory / path, sha256)}
        for (model, path), sha256 in checkpoints.items()
    ]


def _state(path: Path, sha256: str) -> str:
    if not path.is_file():
        return "missing"
    with path.open("rb") as handle:
        return "intact" if hashlib.file_digest(handle, "sha256").hexdigest().startswith(sha256) else "changed"


def _labelled(
    files: Sequence[Path], property_: str, scale: str, elements: Collection[str], say: Say
) -> dict[str, Material]:
    """Labelled crystals by content hash; of several copies the first counts."""
    from engine.materials.loading import load

    found: dict[str, Material] = {}
    fields: set[str] = set()
    left_out: Counter[str] = Counter()
    fidelities: Counter[str] = Counter()
    for part in load(files, allowed_elements=elements):
        for outcome in part:
            if isinstance(outcome, Rejection):
                left_out[f"refused ({outcome.reason.sentence})"] += 1
                continue
            fields.update(outcome.properties)
            if property_ not in outcome.properties:
                left_out[f"without {property_}"] += 1
            elif problem := flaw(outcome.properties[property_], scale):
                left_out[f"whose {property_} {problem}"] += 1
            else:
                fidelities.update(_fidelities([outcome]))
                first = found.setdefault(outcome.content_hash, outcome)
                if first is not outcome:
                    left_out[_COPY if _agree(first, outcome, [property_]) else f"{_COPY} with another value"] += 1
        say(Count(f"{len(found)} labelled crystals read"))
    why = "; ".join(f"{count} {words}" for words, count in left_out.items())
    if not found and not why:
        raise CampaignError(f"no crystals in {', '.join(map(str, files))}; give files of crystals with their labels")
    if not found:
        known = f"there are: {', '.join(sorted(fields)) or 'none'}"
        raise CampaignError(f"no record has a usable {property_!r} ({why}; {known}); check --property")
    if len(fidelities) > 1:
        counts = ", ".join(f"{name} ({count})" for name, count in sorted(fidelities.items()))
        raise CampaignError(
            f"by the records' own field 'fidelity', labels of {property_} are of {counts}, which are not the same "
            "quantity; give files of one of them, and learn from a cheaper one by `pretrain fidelity` or, in a "
            "campaign, [model] lower_fidelity"
        )
    if why:
        say(f"records left out: {why}")
    return found


def _fidelities(materials: Iterable[Material]) -> list[str]:
    """Fidelity of each material that names one among its properties."""
    named = (m.properties.get("fidelity") for m in materials)
    return [name for name in named if isinstance(name, str) and name]


def _agree(first: Material, copy: Material, names: Iterable[str]) -> bool:
    """Whether two records of a crystal give what both have of these properties the same value, but for rounding."""
    pairs = [(_number(first.properties.get(name)), _number(copy.properties.get(name))) for name in names]
    return all(math.isclose(a, b, rel_tol=_ROUNDED) for a, b in pairs if not math.isnan(a + b))


def _auxiliaries(materials: Sequence[Material], property_: str) -> dict[str, NDArray[np.float64]]:
    """Other numeric properties that most of the materials have, by name; log10 where they span a decade."""
    import numpy as np

    found = {}
    for name in sorted({name for m in materials for name in m.properties} - {property_}):
        values = np.array([_number(m.properties.get(name)) for m in materials])
        known = values[np.isfinite(values)]
        if len(known) < _KNOWN_SHARE * len(values) or np.ptp(known) == 0:
            continue
        spans_decades = known.min() > 0 and known.max() > 10 * known.min()
        found[name] = np.log10(values) if spans_decades else values
    return found


def _number(value: object) -> float:
    return float(value) if isinstance(value, float | int) and not isinstance(value, bool) else math.nan
