"""What the tests of this folder share: the command line in this process, settings, labelled real crystals."""

from __future__ import annotations

import contextlib
import io
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from campaigns.cli import main
from campaigns.files import write_whole
from engine.materials.reference import reference_crystals, reference_labels

SHARED = Path(__file__).resolve().parents[3] / "shared"
FIELD = "kappa_300K"


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as JSON; anything else there is an error."""
        return json.loads(self.out)


def kappascout(*arguments: object) -> Outcome:
    """Run the command line as the console script does."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


def done(*arguments: object) -> Outcome:
    """Run a command that must succeed."""
    outcome = kappascout(*arguments)
    assert outcome.code == 0, outcome.err
    return outcome


def refused(*arguments: object) -> str:
    """Run a command that cannot be met; its message."""
    outcome = kappascout(*arguments)
    assert outcome.code == 1, (outcome.code, outcome.err)
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    return outcome.err


def configure(directory: Path, settings: Mapping[str, Mapping[str, Any]]) -> None:
    """Change settings in ``campaign.toml``; a value of None takes the key away."""
    path = directory / "campaign.toml"
    present = tomllib.loads(path.read_text())
    for section, keys in settings.items():
        merged = present.get(section, {}) | dict(keys)
        present[section] = {key: value for key, value in merged.items() if value is not None}
    write_whole(path, to_toml(present))


def to_toml(settings: Mapping[str, Mapping[str, Any]]) -> str:
    """Write settings as TOML."""
    sections = (
        f"[{section}]\n" + "".join(f"{key} = {_value(value)}\n" for key, value in keys.items())
        for section, keys in settings.items()
    )
    return "\n".join(sections)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_value(k)} = {_value(v)}" for k, v in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)


def reference_records(count: int, fidelity: str = "dft") -> list[dict[str, Any]]:
    """Real crystals with their published conductivity, as records of JSON lines."""
    crystals = reference_crystals()
    values = {label["id"]: label["value"] for label in reference_labels(fidelity)}
    return [
        {
            "id": id_,
            "lattice": crystals[id_].lattice.tolist(),
            "species": crystals[id_].symbols,
            "frac_coords": crystals[id_].frac_coords.tolist(),
            "properties": {FIELD: value},
        }
        for id_, value in list(values.items())[:count]
    ]


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write rows as JSON lines."""
    return write_whole(path, "".join(json.dumps(row) + "\n" for row in rows))


def label_rows(records: Iterable[Mapping[str, Any]], **fields: Any) -> list[dict[str, Any]]:
    """Labels of records as rows of a label file."""
    return [
        {"id": r["id"], "property": FIELD, "value": r["properties"][FIELD], "unit": "W/(m K)", "fidelity": "dft"}
        | fields
        for r in records
    ]


def queue(directory: Path, *states: str) -> list[dict[str, Any]]:
    """Queue entries as the command lists them."""
    options = [word for state in states for word in ("--state", state)]
    rows: list[dict[str, Any]] = done("queue", "list", directory, "--format", "json", *options).json
    return rows
