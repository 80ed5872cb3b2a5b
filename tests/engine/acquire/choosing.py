"""Batches in one call: the request and the criterion made from keywords."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from engine.acquire.batch import Batch, choose_batch
from engine.acquire.explanation import ChosenRow, ReasonContext
from engine.acquire.objectives import Objective
from engine.acquire.pool import Criterion
from engine.acquire.reasons import reason
from engine.acquire.request import BatchRequest, FunctionOptions
from engine.posteriors.posterior import PoolPosterior

KAPPA = {"scale": "log10", "unit": "W/(m K)"}
_OPTIONS = {field.name for field in fields(FunctionOptions)}
_OF_ROW = {field.name for field in fields(ChosenRow)}


def choose(posterior: PoolPosterior | Sequence[Criterion], goal: str | Objective = "min", **settings: Any) -> Batch:
    """Choose a batch by one property (its posterior and goal) or by several criteria."""
    criteria = posterior if isinstance(posterior, tuple) else (Criterion(posterior, Objective.of(goal)),)
    options = FunctionOptions(**{name: settings.pop(name) for name in _OPTIONS & settings.keys()})
    settings = {"candidates": np.arange(criteria[0].posterior.n_rows), "scale": "linear"} | settings
    return choose_batch(criteria, BatchRequest(options=options, **settings))


def explain(goal: str | Objective, **facts: Any) -> str:
    """Reason for a row, from facts of the row and of its batch."""
    row = {name: facts.pop(name) for name in _OF_ROW & facts.keys()}
    return reason(ChosenRow(**row), ReasonContext(objective=Objective.of(goal), **KAPPA | facts))
