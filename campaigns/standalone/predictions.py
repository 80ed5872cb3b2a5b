"""Predictions of files of crystals by a trained model, or by the latest model of a campaign."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from campaigns.configuration import FILE
from campaigns.exceptions import CampaignError
from campaigns.files import replaced
from campaigns.goals import Scale
from campaigns.output import Count
from campaigns.property_names import Property
from campaigns.round.manifest import RoundFigures
from engine.materials.checks import Rejection
from engine.materials.crystal import Material

if TYPE_CHECKING:
    from engine.learning.backbones.stack import AnyFeaturiser
    from engine.learning.ensemble.ensemble import Ensemble

PREDICTION_COLUMNS = ("id", "formula", "mean", "lower", "upper", "log10_mean", "log10_std")
Say = Callable[[str], None]
Row = dict[str, object]
"""Values by name of the columns."""


@dataclass(frozen=True)
class PredictOutcome:
    """How many records were predicted, and a line for each that was not."""

    predicted: int
    refused: tuple[str, ...]
    title: str = ""
    """What was predicted, in which unit, by which model."""
    rows: Sequence[Row] = ()
    """The predictions, where no file was written."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the rows; those of log10 units only where the model has learned on that scale."""
        plain = any(row["log10_mean"] is None for row in self.rows)
        return PREDICTION_COLUMNS[: -2 if plain else None]


@dataclass(frozen=True)
class GivenModel:
    """A trained model, and how wide its 90 % intervals are."""

    folder: Path | str
    """Folder of the model, or the name of a shipped one."""
    half_width: float
    """Half width of an interval in predicted standard deviations."""
    intervals: str = "90 % intervals"
    """Description of the intervals."""

    @classmethod
    def of(cls, name: Path | str) -> GivenModel:
        """Find a model by its folder or name, or the latest of a campaign by the campaign's directory.

        The intervals of a campaign's model are those of the queue of its round; all others are 1.645 standard
        deviations.

        Raises
        ------
        CampaignError
            If no round of a campaign has trained a model.
        """
        from campaigns.campaign import Campaign
        from engine.metrics.calibration import Z90

        path = Path(name)
        whole = (path / FILE).is_file()
        directory = path if whole else _campaign_of(path)
        if directory is None:
            return cls(name, Z90)
        with Campaign.open(directory) as campaign:
            rounds = [r for r in campaign.store.rounds() if r.model_id and (whole or r.model_id == path.name)]
            if not rounds and whole:
                raise CampaignError(
                    f"no round of the campaign {directory} has a model yet; `kappascout run {directory}` trains one"
                )
            if not rounds:  # of a lower fidelity
                return cls(name, Z90)
            last = rounds[-1]
            half_width = RoundFigures.of(last).half_width or Z90
            words = f"90 % intervals as in the queue of round {last.number} (mean ± {half_width:.2f} std)"
            return cls(campaign.workspace.artifacts / "models" / str(last.model_id), half_width, words)


def predict_files(
    model: Path | str, files: Sequence[Path], out: Path | None, say: Say, potential_python: str = ""
) -> PredictOutcome:
    """Predict the crystals of ``files``, chunk by chunk, into a CSV or Parquet file, or into the outcome.

    Parameters
    ----------
    model
        Folder that ``kappascout train`` wrote, the name of a shipped model, or the directory of a campaign.
    potential_python
        Python in which potentials among its backbones run, where that is another than when it was trained.

    Raises
    ------
    CampaignError
        If no crystal can be predicted; no file is written then.
    """
    from engine.learning.backbones.stack import make_featuriser
    from engine.learning.ensemble.storage import load_ensemble
    from engine.materials.loading import load

    if out is not None and out.suffix not in (".csv", ".parquet"):
        raise CampaignError(f"{out} ends in neither .csv nor .parquet; give one of these")
    given = GivenModel.of(model)
    ensemble = load_ensemble(given.folder, potential_python)
    refused: list[str] = []
    predicted = 0
    kept: list[Row] = []
    place = nullcontext(None) if out is None else replaced(out)
    with tempfile.TemporaryDirectory(prefix="kappascout-predict-") as cache, place as partial:
        featuriser = make_featuriser(ensemble.backbone, cache)

        def rows() -> Iterator[list[Row]]:
            nonlocal predicted
            for outcomes in load(files, allowed_elements=ensemble.backbone.elements, chunk=1024):
                materials = [o for o in outcomes if isinstance(o, Material)]
                refused.extend(
                    f"{r.source}, {r.record_id}: {r.message}; {r.remedy}" for r in outcomes if isinstance(r, Rejection)
                )
                if materials:
                    yield _predict(ensemble, featuriser, materials, given.half_width)
                predicted += len(materials)
                say(Count(f"{predicted} crystals predicted"))

        if partial is None:
            kept = [row for part in rows() for row in part]
        else:
            (_write_csv if out and out.suffix == ".csv" else _write_parquet)(partial, rows())
        if not predicted:
            why = (
                f"the first: {refused[0]}" if refused else f"{', '.join(map(str, files))} hold none, not even to refuse"
            )
            written = f", {out} was not written" if out else ""
            raise CampaignError(f"no crystal could be predicted{written}; {why}")
    unit = Property(ensemble.property).unit
    median = "; mean is that of the logarithm: the median" if ensemble.scale == "log10" else ""
    title = f"{ensemble.property}{f' in {unit}' if unit else ''} by {model}, {given.intervals}{median}"
    return PredictOutcome(predicted, tuple(refused), title, kept)


def _campaign_of(folder: Path) -> Path | None:
    """Directory of the campaign that a model was trained in; None for a model outside a campaign."""
    place = folder.resolve().parent
    directory = place.parent.parent
    inside = (place.name, place.parent.name) == ("models", "artifacts") and (directory / FILE).is_file()
    return directory if inside else None


def _predict(ensemble: Ensemble, featuriser: AnyFeaturiser, materials: list[Material], half_width: float) -> list[Row]:
    featuriser.add({m.content_hash: m.crystal for m in materials})
    table = ensemble.predict(featuriser, [m.content_hash for m in materials])
    mean, std = table.total(ensemble.calibration)
    scale = Scale(ensemble.scale)
    columns = (scale.true(mean), scale.true(mean - half_width * std), scale.true(mean + half_width * std))
    log10 = (mean, std) if ensemble.scale == "log10" else ([None] * len(mean), [None] * len(mean))
    return [
        dict(zip(PREDICTION_COLUMNS, (m.id, m.formula, *values), strict=True))
        for m, *values in zip(materials, *columns, *log10, strict=True)
    ]


def _write_csv(path: Path, parts: Iterator[list[Row]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, PREDICTION_COLUMNS)
        writer.writeheader()
        for part in parts:
            writer.writerows(part)


def _write_parquet(path: Path, parts: Iterator[list[Row]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    text, number = pa.string(), pa.float64()
    schema = pa.schema([(name, text if name in ("id", "formula") else number) for name in PREDICTION_COLUMNS])
    with parquet.ParquetWriter(path, schema) as writer:
        for part in parts:
            writer.write_table(pa.Table.from_pylist(part, schema=schema))
