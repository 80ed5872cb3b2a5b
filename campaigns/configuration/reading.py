"""``campaign.toml`` read and checked; problems are reported with the file's own keys."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from pydantic import BaseModel, ValidationError

from campaigns.configuration.configuration import Configuration
from campaigns.configuration.renamed import current_names, upgraded, warn_of_old_names
from campaigns.configuration.section import Section
from campaigns.exceptions import ConfigurationError
from campaigns.files import write_whole

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from db.records import RoundRecord

FILE = "campaign.toml"


def read_configuration(path: Path) -> Configuration:
    """Read and check a ``campaign.toml``.

    Raises
    ------
    ConfigurationError
        If it is missing or not TOML; or with every unknown key (and the nearest known one) and every bad value.
    """
    return parse_configuration(_text(path), str(path))


def upgrade_configuration(path: Path) -> list[str]:
    """Rewrite a ``campaign.toml`` with the current keys; the old file is kept as ``campaign.toml.old``.

    Returns
    -------
    A sentence for each key that changed; none where the file is up to date, which is then left alone.

    Raises
    ------
    ConfigurationError
        If it is missing or not TOML, or a setting is given under its old and its new name.
    """
    text = _text(path)
    _parse(text, str(path))
    new, changes = upgraded(text, str(path))
    if new != text:
        write_whole(path.with_name(f"{path.name}.old"), text)
        write_whole(path, new)
    return changes


def _text(path: Path) -> str:
    if not path.is_file():
        raise ConfigurationError(f"{path} does not exist; make a campaign with `kappascout init {path.parent}`")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8 text: {error}; save it as UTF-8") from error


def parse_configuration(text: str, where: str) -> Configuration:
    """Check the text of a ``campaign.toml``; ``where`` names it in messages.

    Keys that were renamed are read, and a :class:`RenamedSettingWarning` names the new ones.
    """
    data, renamed = current_names(_parse(text, where), where)
    warn_of_old_names(renamed, where)
    return check_configuration(data, where)


def _parse(text: str, where: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{where} is not valid TOML: {error}; put text in double quotes") from error


def check_configuration(data: Mapping[str, object], where: str) -> Configuration:
    """Check settings given as a dictionary; ``where`` names them in messages.

    Keys that were renamed are read without a warning: manifests of rounds that an older version began have them.
    """
    current, _ = current_names(data, where)
    try:
        # as JSON, because strict types then still accept a list for a tuple and a table for a section
        return Configuration.model_validate_json(json.dumps(current, default=str))
    except ValidationError as error:
        problems = [_explain(problem) for problem in error.errors()]
        raise ConfigurationError(f"{where}: " + "; ".join(problems)) from error


def round_settings(record: RoundRecord) -> Configuration:
    """Read the settings that a round began with, whatever ``campaign.toml`` says by now."""
    return check_configuration(record.manifest["settings"], f"manifest of round {record.number}")


def _explain(problem: ErrorDetails) -> str:
    """One problem, with its section and key as in the file."""
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
    model: type[BaseModel] = Configuration
    for part in section:
        if field := model.model_fields.get(part):  # otherwise an item of the table or list before it
            model = _section_in(field.annotation)
    return list(model.model_fields)


def _section_in(annotation: object) -> type[BaseModel]:
    """The section in an annotation such as ``X | None`` or ``dict[str, X]``; an empty one if there is none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section_in(part)) is not Section), Section)
