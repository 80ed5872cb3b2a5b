"""An ensemble trained on one side of a split and tested on the other, beside baselines that saw the same rows."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from engine.learning.ensemble.baselines import split_baselines
from engine.learning.ensemble.evaluation import Figures, evaluate
from engine.learning.ensemble.training import Labels, train_ensemble
from engine.learning.features.statistics import STATISTICS

if TYPE_CHECKING:
    from engine.learning.backbones.stack import AnyFeaturiser
    from engine.learning.ensemble.settings import EnsembleSettings, Say
    from engine.metrics.splits import Split


class SplitMetrics(TypedDict):
    """Figures on the test rows of a split, as JSON."""

    settings: dict[str, str | int | float | None]
    """See :class:`engine.metrics.splits.SplitSettings`."""
    description: str
    threshold: float | None
    training: int
    test: int
    """Number of rows."""
    predictors: dict[str, Figures]
    """Of ``model`` and of each baseline; ``mae`` and ``rmse`` in learned units, ``mae_ln`` in ln of the value where
    learned units are log10."""


def evaluate_split(
    featuriser: AnyFeaturiser,
    labels: Labels,
    settings: EnsembleSettings,
    split: Split,
    *,
    progress: Say | None = None,
    workers: int = 1,
) -> SplitMetrics:
    """Train an ensemble on the training rows of ``split`` alone, and evaluate its predictions of the test rows.

    Raises
    ------
    TooFewLabelsError
        If the training rows are fewer than an ensemble needs.
    """
    known, new = labels[split.training], labels[split.test]
    ensemble = train_ensemble(featuriser, known, settings, progress=progress, workers=workers)
    mean, std = ensemble.predict(featuriser, new.keys).total(ensemble.calibration)
    statistics = featuriser.embeddings(labels.keys)[:, : len(STATISTICS)]
    predictors = {
        "model": evaluate(new.values, mean, std),
        **split_baselines(statistics, labels.values, split, settings.seed),
    }
    for figures in predictors.values():
        figures["mae_ln"] = _mae_ln(figures, labels.scale)
    return {
        "settings": asdict(split.settings),
        "description": split.describe(),
        "threshold": split.threshold,
        "training": len(split.training),
        "test": len(split.test),
        "predictors": predictors,
    }


def _mae_ln(figures: Figures, scale: str) -> float | None:
    error = figures["mae"]
    return float(error * np.log(10)) if scale == "log10" and error is not None else None
