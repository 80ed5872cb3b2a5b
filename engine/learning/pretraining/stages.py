"""Stages: a backbone is made by training in a chain, each stage on its data, from the weights of the one before."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from engine.exceptions import TrainingError
from engine.learning.backbones.backbone import CARD, Backbone, load_backbone
from engine.learning.networks.training import CHECKPOINT
from engine.learning.pretraining.distillation import COLUMNS, load_teachers
from engine.learning.pretraining.scratch import scratch_backbone
from engine.learning.pretraining.stage import PREVIOUS, Recipe, Stage
from engine.learning.pretraining.tasks import DataSet, materials_hash
from engine.learning.pretraining.training import Say, train_stage


def run_stages(
    recipe: Recipe,
    data: Mapping[str, DataSet],
    work: Path | str,
    start: Backbone | str | Path | None = None,
    say: Say | None = None,
) -> Iterator[Backbone]:
    """Train the stages one after another, giving the backbone of each.

    Every stage has its folder under ``work``: the finished backbone, or the checkpoint of the epoch it was in, from
    which an interrupted chain goes on to the result it would have had. ``start`` takes the place of the first stage's
    own start.

    Raises
    ------
    TrainingError
        If a data set or a start is missing, ``work`` holds another chain, or labels of two fidelities are mixed.
    DivergedError
        If a loss becomes NaN; the last good network is then in the stage's folder, and the stage starts anew there.
    """
    say = say or (lambda _: None)
    absent = [role for role in recipe.roles if role not in data]
    if absent:
        raise TrainingError(
            f"recipe {recipe.name} needs data for {', '.join(recipe.roles)}; {', '.join(absent)} is not given"
        )
    for stage in recipe.stages:  # before the first of them takes its time
        stage.tasks_of(data[stage.data])
        load_teachers(stage.teachers)
    finished: dict[str, Backbone] = {}
    for number_, (stage, begins) in enumerate(zip(recipe.stages, _starts(recipe, start), strict=True), start=1):
        begin = begins if isinstance(begins, Backbone) else finished[begins]
        folder = Path(work) / f"{number_}-{stage.name}"
        identity = _identity(stage, data[stage.data], begin)
        if (folder / CARD).is_file():
            made = load_backbone(folder)
            if made.card.get("identity") != identity:
                raise TrainingError(
                    f"{folder} holds a backbone of other data, settings or starting weights; "
                    "choose another folder or remove it"
                )
            say(f"stage {stage.name} is finished already")
        else:
            name = recipe.name if number_ == len(recipe.stages) else f"{recipe.name}-{stage.name}"
            trained = train_stage(name, stage, begin, data[stage.data], say, folder)
            card = {**trained.card, "identity": identity}
            made = load_backbone(Backbone(name, trained.network, card).save(folder))
            (folder / CHECKPOINT).unlink(missing_ok=True)
            if (folder / COLUMNS).exists():
                shutil.rmtree(folder / COLUMNS)
        yield made
        finished[stage.name] = made


def _starts(recipe: Recipe, given: Backbone | str | Path | None) -> list[Backbone | str]:
    """Find what each stage starts from: a backbone, or a stage before it by name."""
    names = [stage.name for stage in recipe.stages]
    found: list[Backbone | str] = []
    for number_, stage in enumerate(recipe.stages):
        asked = stage.start if number_ or given is None else given
        if asked == PREVIOUS and not number_:
            raise TrainingError(f"stage {stage.name} starts from nothing; say what the chain starts from")
        if isinstance(asked, Backbone):
            found.append(asked)
        elif asked == PREVIOUS or asked in names[:number_]:
            found.append(names[number_ - 1] if asked == PREVIOUS else str(asked))
        else:
            found.append(_start(asked, stage))
    return found


def _start(asked: str | Path, stage: Stage) -> Backbone:
    from engine.learning.ensemble.storage import load_start

    if str(asked).startswith("scratch"):
        return scratch_backbone(str(asked), stage.body, stage.seed)
    return load_start(asked)


def _identity(stage: Stage, data: DataSet, start: Backbone) -> str:
    """SHA-256 of all that decides a stage."""
    tasks = [asdict(task) for task in data.tasks or stage.tasks]
    weights = [backbone.sha256 for backbone in (start, *load_teachers(stage.teachers))]
    settings = asdict(stage)
    if not stage.teachers:
        del settings["teachers"]  # as it was before there were any
    content = json.dumps([settings, tasks, materials_hash(data.materials), *weights], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
