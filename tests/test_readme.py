"""The README's first campaign runs as it is written."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), flags=re.DOTALL)


def _commands() -> list[str]:
    """Lines after a ``$`` prompt that call kappascout, in order."""
    lines = [line for block in _blocks("console") for line in block.splitlines()]
    return [line.removeprefix("$ ").split("  #")[0] for line in lines if line.startswith("$ kappascout")]


def test_first_campaign_and_notebook(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text(_blocks("csv")[0])
    for command in _commands():
        done = subprocess.run(
            [sys.executable, "-m", "campaigns", *shlex.split(command)[1:]],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    (code,) = _blocks("python")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
