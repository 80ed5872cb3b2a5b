"""The command line itself: help for everything, exit codes, formats, and a quick start."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from campaigns.cli import app
from tests.campaigns.helpers import done, kappascout, queue, refused

FIXED = {
    "demo", "init", "ingest", "label import", "label list", "run", "queue list", "queue approve", "queue withdraw",
    "queue export", "status", "rounds", "report", "train", "predict", "backtest", "models list", "models show",
    "models verify",
}  # fmt: skip
"""Commands that scripts rely on."""


def _commands() -> dict[str, Any]:
    def walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        for name, sub in getattr(command, "commands", {}).items():
            yield " ".join((*path, name)), sub
            yield from walk(sub, (*path, name))

    return dict(walk(typer.main.get_command(app), ()))


COMMANDS = _commands()
LEAVES = sorted(name for name, command in COMMANDS.items() if not hasattr(command, "commands"))


def test_all_fixed_commands_are_there() -> None:
    assert set(LEAVES) >= FIXED


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_and_option_is_explained(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # in 80 columns Rich cuts the longest names of commands with switches (--no-...)
    monkeypatch.setenv("COLUMNS", "100")
    command = COMMANDS[name]
    assert (command.help or "").strip().endswith("."), name
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{name} {parameter.name} has no help"
    shown = done(*name.split(), "--help").out
    for parameter in command.params:
        for option in (option for option in parameter.opts if option.startswith("--")):
            assert option in shown, f"{name} {option}"
        for section in re.findall(r"\[\w+\]", parameter.help):  # which Rich takes for a style if not escaped
            assert section in shown, f"{name} {section}"


@pytest.mark.parametrize("name", LEAVES)
def test_wrong_usage_is_exit_code_2(name: str) -> None:
    outcome = kappascout(*name.split(), "--no-such-option")
    assert outcome.code == 2
    assert outcome.out == ""


@pytest.mark.parametrize(
    "command",
    [
        ("init", "c", "--goal", "low"),
        ("run", "c", "--rounds", "0"),
        ("run", "c", "--format", "xml"),
        ("train", "x.jsonl", "--property", "p", "--out", "m", "--strategy", "warm"),
        ("train", "x.jsonl", "--property", "p", "--out", "m", "--members", "1"),
        ("backtest", "x", "--property", "p", "--goal", "up", "--initial", "1", "--batch", "1", "--rounds", "1"),
        ("queue", "fail", "c", "x"),
        ("ingest", "c"),
    ],
)
def test_values_no_command_takes_are_exit_code_2(command: tuple[str, ...]) -> None:
    outcome = kappascout(*command)
    assert outcome.code == 2
    assert outcome.out == ""
    assert "Usage" in outcome.err


WITHOUT_A_CAMPAIGN = {
    "init", "demo", "train", "predict", "estimate", "backtest", "pretrain", "study", "archive verify",
    "archive extract",
}  # fmt: skip


@pytest.mark.parametrize("name", [n for n in LEAVES if n not in WITHOUT_A_CAMPAIGN])
def test_no_campaign_is_exit_code_1(name: str, tmp_path: Path) -> None:
    more = {
        "ingest": ["builtin:reference"],
        "label import": ["x.csv"],
        "label withdraw": ["1", "--reason", "x"],
        "queue withdraw": ["x"],
        **{f"queue {verb}": ["x"] for verb in ("retry", "reopen", "defer")},
        "queue fail": ["x", "--reason", "rejected"],
        "queue export": ["--to", "out"],
        "models show": ["x"],
        "archive create": ["--to", "c.tar.gz"],
        "relax": ["--potential", "rigid-ion"],
    }
    (tmp_path / "x.csv").write_text("")
    message = refused(*name.split(), tmp_path, *more.get(name, []))
    assert message.startswith("error: ")
    assert name == "label import" or "make a campaign with `kappascout init" in message


def test_what_is_empty_names_the_next_step(empty: Path) -> None:
    for words, command in (
        (("queue", "list"), "run"), (("rounds",), "run"), (("models", "list"), "run"),
        (("label", "list"), "label import"),
    ):  # fmt: skip
        assert f"`kappascout {command} {empty}" in done(*words, empty).out
        assert done(*words, empty, "--format", "json").json == []
    assert "asked" in done("status", empty, "--format", "json").json
    shown = done("status", empty).out
    assert "queried labels" in shown
    assert "asked" not in shown


def test_every_report_comes_in_every_format(replay: Path) -> None:
    """JSON parses alone, CSV has the same rows, and a table shows something."""
    done("run", replay, "--rounds", 1)
    model = done("models", "list", replay, "--format", "json").json[0]["model"]
    reports: list[tuple[str, ...]] = [
        ("label", "list"), ("status",), ("rounds",), ("queue", "list"), ("models", "list"), ("models", "verify"),
        ("rejections",), ("run",),
    ]  # fmt: skip
    for words in [*reports, ("models", "show", model)]:
        command = (*words[:2], str(replay), *words[2:]) if words[0] == "models" else (*words, str(replay))
        as_json = done(*command, "--format", "json").json
        rows = list(csv.DictReader(io.StringIO(done(*command, "--format", "csv").out)))
        if words == ("run",):
            assert (len(as_json), len(rows)) == (1, 0)  # the first call did the last round
            continue
        assert len(rows) == (len(as_json) if isinstance(as_json, list) else 1), command
        assert done(*command, "--format", "table").out.strip(), command
    with_options = {n for n, c in COMMANDS.items() if any("--format" in p.opts for p in c.params)}
    assert with_options >= {" ".join(words) for words in reports} | {
        "models show", "ingest", "label import", "train", "backtest", "pretrain",
    }  # fmt: skip


def test_tables_hold_what_the_design_asks_for(replay: Path) -> None:
    done("run", replay, "--rounds", 1)
    header = done("rounds", replay).out.splitlines()[0]
    assert header.split() == [
        "round", "state", "labels", "cv_mae", "cv_mae_trees", "cv_spearman", "cv_crps", "new_labels", "mae", "crps",
        "coverage_90", "calibration_error", "spearman", "hits", "enhancement", "best", "cost",
    ]  # fmt: skip
    assert queue(replay)[0]["reason"][:30] in done("queue", "list", replay).out


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    script = (
        "import sys\nfrom campaigns.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'matgl', 'botorch', 'sklearn', 'pymatgen', 'plotly', 'pandas', 'scipy', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stderr == "[]\n"
    assert "Choose which crystals" in ran.stdout


def test_the_module_is_the_command(tmp_path: Path) -> None:
    """One real process from end to end: its exit code, and JSON alone on standard output."""
    command = [sys.executable, "-m", "campaigns"]
    made = subprocess.run([*command, "init", "c"], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert made.stdout == ""
    shown = subprocess.run(
        [*command, "status", "c", "--format", "json"], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert json.loads(shown.stdout)["materials"] == 0
    failed = subprocess.run([*command, "status", "d"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: d/campaign.toml does not exist")
    assert "Traceback" not in failed.stderr
