"""The README's first campaign runs as it is written."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.campaigns.helpers import done

README = Path(__file__).parents[1] / "README.md"


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), flags=re.DOTALL)


def _commands() -> list[list[str]]:
    """Arguments of the lines after a ``$`` prompt that call kappascout, in order."""
    lines = [line for block in _blocks("console") for line in block.splitlines()]
    return [shlex.split(line, comments=True)[2:] for line in lines if line.startswith("$ kappascout")]


def _process(folder: Path, *arguments: str) -> str:
    """Run Python in a process of its own; what it prints."""
    ended = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"{arguments}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


def test_first_campaign_and_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first command and the notebook as processes, the others in this one: importing torch takes seconds."""
    (tmp_path / "results.csv").write_text(_blocks("csv")[0])
    first, *others = _commands()
    assert len(others) > 5
    _process(tmp_path, "-m", "campaigns", *first)
    monkeypatch.chdir(tmp_path)
    for command in others:
        done(*command)
    (code,) = _blocks("python")
    printed = _process(tmp_path, "-c", code)
    told = README.read_text().partition("which prints\n\n```\n")[2].partition("```")[0]
    # the last digits depend on the machine
    assert [line.split()[:2] for line in printed.splitlines()] == [line.split()[:2] for line in told.splitlines()]
