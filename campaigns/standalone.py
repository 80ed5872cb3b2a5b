"""Models outside a campaign: train, predict and pre-train on files alone."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from campaigns.backtest import Protocol
from campaigns.exceptions import CampaignError
from campaigns.files import replaced
from campaigns.training_set import Scale
from engine.materials.checks import Rejection
from engine.materials.crystal import Material

if TYPE_CHECKING:
    from campaigns.campaign import Campaign
    from engine.learning.ensemble import Ensemble
    from engine.learning.features import Featuriser

PREDICTION_COLUMNS = ("id", "formula", "mean", "lower", "upper", "log10_mean", "log10_std")
Say = Callable[[str], None]


@dataclass(frozen=True)
class TrainRequest:
    """What ``kappascout train`` was asked for."""

    files: Sequence[Path]
    property: str
    out: Path
    start: str = ""
    strategy: str = "frozen"
    head: str = "gp"
    members: int = 5
    seed: int = 0
    scale: str = ""
    epochs: int = 30


def train_model(request: TrainRequest, say: Say) -> dict[str, Any]:
    """Train on labelled crystals of files and write the model; returns its record."""
    from engine.learning.backbone import DEFAULT_BACKBONE
    from engine.learning.ensemble import EnsembleSettings, HeadKind, Strategy, train_ensemble
    from engine.learning.features import Featuriser
    from engine.learning.storage import RECORD, load_start, save_ensemble
    from engine.learning.training import Schedule

    _one_of("--strategy", request.strategy, get_args(Strategy))
    _one_of("--head", request.head, get_args(HeadKind))
    if (request.out / RECORD).exists():
        raise CampaignError(f"{request.out} holds a trained model already; choose another folder")
    scale = _scale(request.scale, request.property)
    backbone = load_start(request.start or DEFAULT_BACKBONE)
    with tempfile.TemporaryDirectory(prefix="kappascout-train-") as cache:
        materials = _labelled(request.files, request.property, say)
        featuriser = Featuriser(backbone, cache)
        featuriser.add({key: m.crystal for key, m in materials.items()})
        say(f"{len(materials)} labelled crystals embedded")
        ensemble = train_ensemble(
            featuriser,
            list(materials),
            Scale(scale).learned([float(m.properties[request.property]) for m in materials.values()]),
            EnsembleSettings(
                request.strategy,  # type: ignore[arg-type]
                request.head,  # type: ignore[arg-type]
                request.members,
                request.seed,
                Schedule(epochs=request.epochs),
            ),
            property=request.property,
            scale=scale,
            progress=say,
        )
    return save_ensemble(ensemble, request.out)


@dataclass(frozen=True)
class PredictOutcome:
    """How many records were predicted, and a line for each that was not."""

    predicted: int
    refused: tuple[str, ...]


def predict_files(model: Path, files: Sequence[Path], out: Path, say: Say) -> PredictOutcome:
    """Predict the crystals of ``files``, chunk by chunk, into a CSV or Parquet file."""
    from engine.learning.features import Featuriser
    from engine.learning.storage import load_ensemble
    from engine.materials.loading import load

    if out.suffix not in (".csv", ".parquet"):
        raise CampaignError(f"{out} ends in neither .csv nor .parquet; give one of these")
    ensemble = load_ensemble(model)
    refused: list[str] = []
    predicted = 0
    with tempfile.TemporaryDirectory(prefix="kappascout-predict-") as cache, replaced(out) as partial:
        featuriser = Featuriser(ensemble.backbone, cache)

        def rows() -> Iterator[list[dict[str, Any]]]:
            nonlocal predicted
            for outcomes in load(files, allowed_elements=ensemble.backbone.elements, chunk=1024):
                materials = [o for o in outcomes if isinstance(o, Material)]
                refused.extend(f"{r.source}, {r.record_id}: {r.message}; {r.remedy}" for r in outcomes if isinstance(r, Rejection))
                if materials:
                    yield _predict(ensemble, featuriser, materials)
                predicted += len(materials)
                say(f"{predicted} crystals predicted")

        (_write_csv if out.suffix == ".csv" else _write_parquet)(partial, rows())
    return PredictOutcome(predicted, tuple(refused))


def pretrain_backbone(recipe: str, files: Sequence[Path], start: str, out: Path, say: Say) -> dict[str, Any]:
    """Pre-train a backbone on the crystals of ``files`` and write it; returns its card."""
    import torch

    from engine.learning.backbone import load_backbone
    from engine.learning.pretraining import merge_copies, pretrain, read_recipe
    from engine.materials.loading import load

    torch.set_num_threads(1)  # the sum of many threads depends on their number, and so would the weights
    plan = read_recipe(recipe)
    backbone = load_backbone(start)
    outcomes = [o for part in load(files) for o in part]
    materials = merge_copies(o for o in outcomes if isinstance(o, Material))
    say(f"{len(materials)} crystals, {len(outcomes) - len(materials)} copies or refused records left out")
    made = pretrain(
        Path(recipe).stem,
        backbone,
        materials,
        plan,
        lambda e: say(f"epoch {e.number} of {plan.schedule.epochs}: loss {e.train_loss:.4f}, validation {e.validation_loss:.4f}"),
    )
    made.save(out)
    return dict(made.card)


def backtest_protocol(
    files: Sequence[str],
    property: str,
    goal: str,
    sizes: tuple[int, int, int],
    seeds: str,
    *,
    scale: str,
    start: str,
    members: int,
    initial_ids: Path | None,
) -> Protocol:
    """A backtest's protocol from the command line's words; ``sizes`` are initial, batch and rounds."""
    from engine.learning.backbone import DEFAULT_BACKBONE

    _one_of("--goal", goal, ("min", "max"))
    try:
        numbers = tuple(int(seed) for seed in seeds.split(","))
    except ValueError:
        raise CampaignError(f"--seeds {seeds!r}: give whole numbers with commas, e.g. 0,1,2") from None
    return Protocol(
        files=tuple(files),
        property=property,
        goal=goal,
        initial=sizes[0],
        batch=sizes[1],
        rounds=sizes[2],
        seeds=numbers,
        scale=_scale(scale, property),
        start=start or DEFAULT_BACKBONE,
        members=members,
        initial_ids=None if initial_ids is None else json.loads(initial_ids.read_text()),
    )


def verify_models(campaign: Campaign) -> list[dict[str, Any]]:
    """State of every checkpoint of every model: intact, changed or missing."""
    import hashlib

    rows = []
    for record in campaign.store.models():
        for member in record.members:
            path = campaign.directory / member.path
            if not path.is_file():
                state = "missing"
            else:
                intact = hashlib.sha256(path.read_bytes()).hexdigest() == member.sha256
                state = "intact" if intact else "changed"
            rows.append({"model": record.model_id, "checkpoint": member.path, "state": state})
    return rows


def _labelled(files: Sequence[Path], property_: str, say: Say) -> dict[str, Material]:
    """Labelled crystals by content hash; of several copies the first counts."""
    from engine.materials.loading import load

    found: dict[str, Material] = {}
    copies = refused = without = 0
    for part in load(files):
        for outcome in part:
            if isinstance(outcome, Rejection):
                refused += 1
            elif not isinstance(outcome.properties.get(property_), int | float):
                without += 1
            elif outcome.content_hash in found:
                copies += 1
            else:
                found[outcome.content_hash] = outcome
        say(f"{len(found)} labelled crystals read")
    if not found:
        raise CampaignError(f"no record has the property {property_!r} ({without} records without it); check --property")
    if refused or without or copies:
        say(f"left out: {refused} refused records, {without} without {property_}, {copies} copies of a crystal")
    return found


def _predict(ensemble: Ensemble, featuriser: Featuriser, materials: list[Material]) -> list[dict[str, Any]]:
    from campaigns.round import Z90

    featuriser.add({m.content_hash: m.crystal for m in materials})
    table = ensemble.predict(featuriser, [m.content_hash for m in materials])
    mean, std = table.total(ensemble.calibration)
    scale = Scale(ensemble.scale)
    columns = (scale.true(mean), scale.true(mean - Z90 * std), scale.true(mean + Z90 * std))
    log10 = (mean, std) if ensemble.scale == "log10" else ([None] * len(mean), [None] * len(mean))
    return [
        dict(zip(PREDICTION_COLUMNS, (m.id, m.formula, *values), strict=True))
        for m, *values in zip(materials, *columns, *log10, strict=True)
    ]


def _write_csv(path: Path, parts: Iterator[list[dict[str, Any]]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, PREDICTION_COLUMNS)
        writer.writeheader()
        for part in parts:
            writer.writerows(part)


def _write_parquet(path: Path, parts: Iterator[list[dict[str, Any]]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    text, number = pa.string(), pa.float64()
    schema = pa.schema([(name, text if name in ("id", "formula") else number) for name in PREDICTION_COLUMNS])
    with parquet.ParquetWriter(path, schema) as writer:
        for part in parts:
            writer.write_table(pa.Table.from_pylist(part, schema=schema))


def _scale(asked: str, property_: str) -> Literal["log10", "linear"]:
    if asked:
        _one_of("--scale", asked, ("log10", "linear"))
        return asked  # type: ignore[return-value]
    return "log10" if property_.startswith("kappa") else "linear"


def _one_of(option: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise CampaignError(f"{option} {value!r} is not known; choose one of {', '.join(known)}")
