"""Calculations of many crystals with one potential, kept in a file by content hash and not done again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from campaigns.exceptions import CampaignError
from campaigns.lines import GrowingLines
from db.records import Json

if TYPE_CHECKING:
    from engine.materials.crystal import Crystal
    from engine.physics.outcome import Failed
    from engine.physics.potential import Potential
    from engine.physics.stability import Figures
    from engine.physics.workers import Calculation, Finished

    FigureCalculation = Callable[[Crystal, Potential], Figures | Failed]

FIGURES = "figures"
FAILURE = "failure"
_TIMED_OUT = "timed_out"


@dataclass(frozen=True)
class Effort:
    """Processes and time for each crystal."""

    workers: int
    time_limit: float
    """Wall seconds."""
    retry: bool = False
    """Whether failures from before are calculated again."""


@dataclass(frozen=True)
class Method:
    """A potential with the settings of a calculation: what two results must share to be comparable."""

    spec: str
    """Name of the potential, as of :func:`engine.physics.potentials.load_potential`."""
    potential: dict[str, str]
    """Its name and hash, and its version where it has one."""
    settings: Json

    @classmethod
    def of(cls, spec: str, potential: Potential, settings: Json) -> Method:
        """Method of a loaded potential."""
        return cls(spec, potential.describe(), settings)

    @property
    def sha256(self) -> str:
        """Hash of potential and settings."""
        return sha256_of({"potential": self.potential, "settings": self.settings})

    def __str__(self) -> str:
        named = [self.potential["name"], self.potential.get("version", ""), f"sha256 {self.potential['sha256'][:12]}"]
        return f"{' '.join(filter(None, named))}, settings {sha256_of(self.settings)[:12]}"


class Calculations:
    """Results of one calculation by content hash, in a file of JSON lines; the last line of a crystal counts."""

    def __init__(self, path: Path, method: Method, calculation: FigureCalculation, effort: Effort):
        """Results that ``path`` has from before are read; their crystals and figures stay on the disk."""
        self._lines = GrowingLines.open(path)
        self.method = method
        self._calculation = calculation
        self._effort = effort
        self.core_seconds = 0.0
        """Processor time of the calculations of this object."""
        self.results: dict[str, Json] = {}
        """Results by content hash, without structures: ``figures`` or ``failure``, formula and cost."""
        for key, record in self._records():
            self.results[key] = _without_crystal(record)
        if effort.retry:
            self.results = {key: record for key, record in self.results.items() if FAILURE not in record}

    def is_done(self, key: str) -> bool:
        """Whether a crystal has a result; one that timed out has none where the limit is longer now."""
        result = self.results.get(key)
        if result is None:
            return False
        timed_out = result.get(FAILURE, {}).get("reason") == _TIMED_OUT
        return not timed_out or self._effort.time_limit <= result["time_limit"]

    def run(
        self, crystals: Iterable[tuple[str, Crystal]], stored: Callable[[list[str]], None], count: Callable[[], None]
    ) -> None:
        """Calculate crystals that are not done, by content hash.

        Parameters
        ----------
        crystals
            Content hash and crystal; consumed lazily.
        stored
            Takes the hashes of results that are on the disk now.
        count
            Called after each crystal.
        """
        formulas: dict[str, str] = {}

        def missing() -> Iterator[tuple[str, Crystal]]:
            for key, crystal in crystals:
                if not self.is_done(key) and key not in formulas:
                    formulas[key] = crystal.formula
                    yield key, crystal

        held: list[str] = []
        with closing(self._finished(missing())) as results:  # ends the processes, also after an error
            try:
                for one in results:
                    record = self._record(one, formulas[one.key])
                    self.results[one.key] = _without_crystal(record)
                    self.core_seconds += record["core_seconds"]
                    held.append(one.key)
                    if self._lines.add(record):
                        stored(held)
                        held = []
                    count()
            finally:
                self._lines.flush()
                stored(held)

    def _finished(self, crystals: Iterator[tuple[str, Crystal]]) -> Generator[Finished, None, None]:
        from engine.physics.workers import calculate_all

        # the processes hand on whatever a calculation returns
        calculation = cast("Calculation", self._calculation)
        effort = self._effort
        yield from calculate_all(crystals, calculation, self.method.spec, effort.workers, effort.time_limit)

    def crystals(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, Crystal]]:
        """Content hash and calculated crystal of results that have one, from the disk."""
        from engine.materials.crystal import Crystal

        for key, record in self._records():
            crystal = record.get(FIGURES, {}).get("crystal")
            if crystal is not None and wanted(key):
                yield key, Crystal.from_dict(crystal)

    def _records(self) -> Iterator[tuple[str, Json]]:
        try:
            for record in self._lines.read():
                yield record["content_hash"], record
        except (ValueError, KeyError, TypeError) as error:
            raise CampaignError(
                f"{self._lines.path} is damaged ({error}); remove it, its crystals are calculated again"
            ) from error

    def _record(self, finished: Finished, formula: str) -> Json:
        cost = round(finished.outcome.core_seconds or finished.wall_seconds, 3)
        about = {"content_hash": finished.key, "formula": formula}
        return (
            about
            | result_of(cast("Figures | Failed", finished.outcome))
            | {"core_seconds": cost, "time_limit": self._effort.time_limit}
        )


def result_of(outcome: Figures | Failed) -> Json:
    """An outcome as JSON: its ``figures``, or its ``failure`` with reason and message."""
    from engine.physics.stability import Figures

    if isinstance(outcome, Figures):
        return {FIGURES: outcome.values}
    return {FAILURE: {"reason": outcome.reason, "message": outcome.message}}


def sha256_of(content: object) -> str:
    """Hash of JSON content, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _without_crystal(record: Json) -> Json:
    if FIGURES not in record:
        return record
    return record | {FIGURES: {name: value for name, value in record[FIGURES].items() if name != "crystal"}}
