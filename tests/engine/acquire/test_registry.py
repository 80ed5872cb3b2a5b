"""A new acquisition function is one class: batches, reasons and the configuration know it by its name."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from campaigns.configuration.acquisition import AcquisitionSection
from engine.acquire.functions import FUNCTIONS, functions_table
from engine.acquire.marginal import ConfidenceBound, MarginalRule
from engine.acquire.pool import CandidatePool
from engine.acquire.registry import AcquisitionFunction, Needs, register
from engine.acquire.request import BatchRequest
from engine.exceptions import AcquisitionError
from engine.posteriors.posterior import MemberPosterior
from tests.campaigns.helpers import configure, done, refused
from tests.conftest import REPOSITORY
from tests.engine.acquire.choosing import choose, explain


@pytest.fixture
def widest() -> Iterator[str]:
    """Register a function that goes by the spread alone, nearly."""

    @register
    class Widest(AcquisitionFunction):
        name = "widest"
        description = "known least"
        source = "uncertainty sampling: Lewis, Gale, SIGIR 1994"
        needs = Needs.MARGINAL

        def build(self, pool: CandidatePool, request: BatchRequest) -> MarginalRule:
            return MarginalRule(ConfidenceBound(1e6), pool.objective)

    yield "widest"
    del FUNCTIONS["widest"]


def test_a_new_function_gives_batches_and_reasons_and_is_configured(widest: str) -> None:
    rng = np.random.default_rng(0)
    std = np.repeat(rng.uniform(0.1, 1.0, (1, 40)), 5, axis=0)
    posterior = MemberPosterior.from_members(rng.normal(0, 1e-6, (5, 40)), std, rng=rng)
    batch = choose(posterior, acquisition=widest, q=3, rng=rng)
    assert batch.rows.tolist() == np.argsort(-std[0])[:3].tolist()
    assert batch.rules == ("widest",) * 3
    words = explain("min", rule=batch.rules[0], mean=0.0, std=0.5, best=None)
    assert words.endswith("known least (widest)")
    section = AcquisitionSection(function=widest, portfolio=("ucb", widest))
    assert not section.is_pareto
    assert section.fits_goal("window")


def test_a_name_is_registered_once(widest: str) -> None:
    with pytest.raises(AcquisitionError, match="'widest'"):
        register(type(FUNCTIONS[widest]))


def test_every_function_names_what_it_does_its_source_and_what_it_needs() -> None:
    assert all(function.name == name for name, function in FUNCTIONS.items())
    assert all(function.description and function.source for function in FUNCTIONS.values())
    assert {function.needs for function in FUNCTIONS.values()} == set(Needs)
    assert {name for name, function in FUNCTIONS.items() if "window" not in function.goals} == {"GIBBON", "qMES", "qKG"}


def test_the_readme_lists_every_function() -> None:
    readme = Path(__file__).parents[3] / "engine" / "README.md"
    assert functions_table() in readme.read_text(), f"put this into {readme}:\n{functions_table()}"


def test_the_example_of_the_readme_is_a_command_line_of_its_own(tmp_path: Path) -> None:
    """``python mine.py ...`` knows the function; ``kappascout`` does not, and names those that it knows."""
    readme = (Path(__file__).parents[3] / "engine" / "README.md").read_text()
    (tmp_path / "mine.py").write_text(readme.split("```python\n# mine.py")[1].split("\n", 1)[1].split("```")[0])
    done("init", tmp_path / "c", "--cold")
    configure(tmp_path / "c", {"acquisition": {"function": "by_spread"}})
    assert "unknown acquisition function 'by_spread'" in refused("status", tmp_path / "c")
    command = [sys.executable, tmp_path / "mine.py", "status", tmp_path / "c"]
    shown = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, env=_environment())
    assert shown.returncode == 0, shown.stderr


def _environment() -> dict[str, str]:
    """Environment of a process that imports this repository."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY)}
