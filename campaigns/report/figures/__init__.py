"""Figures of the report, each with a sentence on how to read it, or on why there is none yet."""

from campaigns.report.figures.calibration import (
    calibration_curve,
    coverage_by_round,
    error_by_spread,
    parity_after,
    parity_before,
    spread_by_round,
)
from campaigns.report.figures.chemistry import elements, embedding
from campaigns.report.figures.drawing import Panel
from campaigns.report.figures.progress import best_so_far, costs, enhancement, errors

__all__ = [
    "Panel",
    "best_so_far",
    "calibration_curve",
    "costs",
    "coverage_by_round",
    "elements",
    "embedding",
    "enhancement",
    "error_by_spread",
    "errors",
    "parity_after",
    "parity_before",
    "spread_by_round",
]
