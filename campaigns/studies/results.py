"""What a study finds: resumable cells, figures of predictions, and the tables and files of its results."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, get_args

import numpy as np

from campaigns.files import write_whole
from engine.metrics.accuracy import accuracy
from engine.metrics.discovery import top_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from campaigns.studies.data import Say

CODE_VERSION = 4
"""Of what decides a cell; raised when a change of the code changes figures, so that old cells are computed again."""
_PACKAGES = ("kappascout", "torch", "matgl", "gpytorch", "scikit-learn")
_REPEATS = ("split", "draw", "compound", "structure")
_LOWEST = 10
"""Percent of the test rows whose recall is reported."""
Figure = Literal["mae", "mape", "r2", "spearman", "recall_lowest"]
FIGURES: tuple[str, ...] = (
    *get_args(Figure), "mae_ln", "coverage_90", "sre", "sre_polar", "bias_ln", "failed",
)  # fmt: skip
"""Of cells; see :func:`judge`, :mod:`campaigns.studies.phonix` and :mod:`campaigns.studies.srme`."""


class Figures(TypedDict):
    """Figures of the predictions of one cell; None where one is not defined."""

    mae: float
    """In learned units."""
    mape: float | None
    """In true units, of properties learned as log10."""
    r2: float | None
    spearman: float | None
    recall_lowest: float


class Cells:
    """Predictions of a study, each written as it is made and read instead of made again.

    A cell is found by a hash of its settings, which must name all that decides it, and of :data:`CODE_VERSION`.
    """

    def __init__(self, folder: Path, say: Say):
        self._folder, self._say = folder, say
        self._seconds: dict[Path, float] = {}

    @property
    def seconds(self) -> float:
        """Processor time of the cells used, whenever they were made."""
        return sum(self._seconds.values())

    def predicted(
        self, settings: Mapping[str, object], compute: Callable[[], NDArray[np.float64]]
    ) -> NDArray[np.float64]:
        """Predictions (n) of a cell in learned units."""
        words = [str(v) for v in settings.values() if isinstance(v, str | int) and 0 < len(str(v)) <= 30]
        name = re.sub(r"[^\w.-]+", "_", "-".join(words))
        path = self._folder / f"{name}-{digest(settings, CODE_VERSION)[:16]}.json"
        if path.is_file():
            cell = json.loads(path.read_text())
        else:
            began = time.process_time()
            predicted = compute()
            cell = {"settings": settings, "seconds": round(time.process_time() - began, 2)}
            cell["predicted"] = [round(float(p), 6) for p in predicted]
            write_whole(path, json.dumps(cell))
            self._say(f"{name}: {cell['seconds']} s")
        self._seconds[path] = cell["seconds"]
        return np.array(cell["predicted"])


@dataclass(frozen=True)
class Result:
    """What a study found: a row for each cell, tables as Markdown, and how they were made."""

    name: str
    rows: Sequence[Mapping[str, object]]
    """Of each cell: what it was, and its figures."""
    tables: str
    facts: Mapping[str, object]
    """Rows, overlaps, fits: what is not a figure of one cell."""
    settings: Mapping[str, object]
    seconds: float
    reductions: Sequence[str]
    """What was made smaller than in the source, in words."""

    def summary(self) -> list[dict[str, object]]:
        """Figures of each kind of cell, averaged over splits or draws."""
        parts: dict[tuple[object, ...], list[Mapping[str, object]]] = {}
        for row in self.rows:
            parts.setdefault(tuple(row[k] for k in row if k not in (*FIGURES, *_REPEATS)), []).append(row)
        return [
            {
                name: mean_of([_number(r[name]) for r in part]) if name in FIGURES else value
                for name, value in part[0].items()
                if name not in _REPEATS
            }
            for part in parts.values()
        ]

    def write(self, folder: Path, command: str) -> Path:
        """Write ``NAME.json`` and ``NAME.md``; returns the latter."""
        versions = {package: version(package) for package in _PACKAGES}
        made = {
            "study": self.name,
            "command": command,
            "date": datetime.now(UTC).date().isoformat(),
            "versions": versions,
            "cpu_minutes": round(self.seconds / 60, 1),
            "settings": self.settings,
            "facts": self.facts,
        }
        write_whole(folder / f"{self.name}.json", json.dumps({**made, "rows": self.rows}, default=str) + "\n")
        used = ", ".join(f"{package} {number}" for package, number in versions.items())
        head = [
            f"# Study: {self.name}",
            "",
            f"`{command}`, {made['date']}; {used}; {made['cpu_minutes']} CPU-minutes of one thread.",
            "",
            *(f"- {reduction}" for reduction in self.reductions),
            "",
        ]
        return write_whole(folder / f"{self.name}.md", "\n".join(head) + "\n" + self.tables.strip() + "\n")


def judge(true: NDArray[np.float64], predicted: NDArray[np.float64], scale: Literal["log10", "linear"]) -> Figures:
    """Figures of n test rows in learned units; ``mape`` in true units; recall of the lowest tenth (at least 2)."""
    found = accuracy(true, predicted, scale=scale)
    lowest, guessed = (top_rows(v, "min", percent=_LOWEST, at_least=min(2, len(v))) for v in (true, predicted))
    return {
        "mae": found.mae,
        "mape": found.mape if scale == "log10" else None,
        "r2": found.r2,
        "spearman": found.spearman,
        "recall_lowest": float(np.isin(lowest, guessed).mean()),
    }


def digest(*content: object) -> str:
    """SHA-256 of anything JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def markdown(rows: Sequence[Sequence[str]], head: Sequence[str]) -> str:
    """Write a Markdown table, the first column left-aligned."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def mean_std(values: Sequence[float | None]) -> str:
    """Mean and standard deviation of those that are defined, e.g. ``.346 (.041)``."""
    known = [v for v in values if v is not None]
    mean = mean_of(known)
    if mean is None:
        return "-"
    spread = f" ({short(float(np.std(known, ddof=1)))})" if len(known) > 1 else ""
    return short(mean) + spread


def mean_of(values: Sequence[float | None]) -> float | None:
    """Mean of those that are defined."""
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def short(value: float) -> str:
    """Three decimals, without the zero before the point."""
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.2f}"


def _number(value: object) -> float | None:
    """Return a figure of a cell as it is."""
    return value if isinstance(value, float | int) else None
