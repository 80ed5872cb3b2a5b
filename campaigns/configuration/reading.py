"""``campaign.toml`` read and checked; every problem named in the file's own words."""

from __future__ import annotations

import difflib
import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import ValidationError

from campaigns.configuration.configuration import Configuration
from campaigns.configuration.section import Section
from campaigns.exceptions import ConfigurationError

if TYPE_CHECKING:
    from db.records import RoundRecord

FILE = "campaign.toml"


def read_configuration(path: Path) -> Configuration:
    """Read and check a ``campaign.toml``.

    Raises
    ------
    ConfigurationError
        If it is missing or no TOML, or with every unknown key (and the nearest known one) and every bad value.
    """
    if not path.is_file():
        raise ConfigurationError(f"{path} does not exist; make a campaign with `kappascout init {path.parent}`")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8 text: {error}; save it as UTF-8") from error
    return parse_configuration(text, str(path))


def parse_configuration(text: str, where: str) -> Configuration:
    """Check the text of a ``campaign.toml``; ``where`` names it in messages."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{where} is no valid TOML: {error}; text stands in double quotes") from error
    return check_configuration(data, where)


def check_configuration(data: dict[str, Any], where: str) -> Configuration:
    """Check settings given as a dictionary; ``where`` names them in messages."""
    try:
        # as JSON, because strict types then still admit a list for a tuple and a table for a section
        return Configuration.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        problems = [_explain(problem) for problem in error.errors()]
        raise ConfigurationError(f"{where}: " + "; ".join(problems)) from error


def round_settings(record: RoundRecord) -> Configuration:
    """Read the settings that a round began with, whatever ``campaign.toml`` says by now."""
    return check_configuration(record.manifest["settings"], f"manifest of round {record.number}")


def _explain(problem: Any) -> str:
    """Say one problem with the key's place as it stands in the file."""
    places = [str(part) for part in problem["loc"]] or [""]
    *section, key = places[:1] + places[2:] if places[:2] == ["labeler", "fidelities"] else places
    kind, message = problem["type"], problem["msg"].removeprefix("Value error, ")
    if kind == "value_error" and isinstance(problem["input"], dict):
        return f"[{'.'.join([*section, key])}]: {message}" if key else message
    name = f"[{'.'.join(section)}] {key}" if section else f"[{key}]"
    if kind == "extra_forbidden":
        return f"unknown key {name}; {_hint(section, key)}"
    return f"{name} is missing" if kind == "missing" else f"{name} = {problem['input']!r}: {message}"


def _hint(section: list[str], key: str) -> str:
    known = _known_keys(section)
    if close := difflib.get_close_matches(key, known, n=1):
        return f"did you mean {close[0]!r}?"
    homes = [f"[{home}]" for home in Configuration.model_fields if key in _known_keys([home])]
    return f"it belongs to {' or '.join(homes)}" if homes else f"known here: {', '.join(known)}"


def _known_keys(section: list[str]) -> list[str]:
    model: Any = Configuration
    for part in section:
        if field := model.model_fields.get(part):  # else an item of the table or list before
            model = _section_in(field.annotation)
    return list(model.model_fields)


def _section_in(kind: Any) -> Any:
    """Find the section in an annotation such as ``X | None`` or ``dict[str, X]``; an empty one if there is none."""
    if hasattr(kind, "model_fields"):
        return kind
    return next((found for part in get_args(kind) if (found := _section_in(part)) is not Section), Section)
