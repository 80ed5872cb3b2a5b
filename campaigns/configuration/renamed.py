"""Keys of ``campaign.toml`` that were renamed: old ones are read, and ``kappascout config upgrade`` rewrites them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from campaigns.exceptions import ConfigurationError, RenamedSettingWarning

if TYPE_CHECKING:
    from tomlkit.items import Item, Key

    Body = list[tuple[Key | None, Item]]

Settings = dict[str, Any]
LAST = "0.3.0"
"""Version that no longer reads old keys."""


@dataclass(frozen=True)
class Renaming:
    """A key of one section, or values of it, with another name now."""

    section: str
    old: str
    new: str
    values: Mapping[str, str] = field(default_factory=dict)
    """New value for each old one; other values stay the same."""

    def applies(self, key: str, value: object) -> bool:
        """Whether this key with this value is an old name."""
        return key == self.old and (self.old != self.new or value in self.values)

    def value(self, old: object) -> object:
        """The value under its current name."""
        return self.values.get(old, old) if isinstance(old, str) else old

    def describe(self, value: object) -> str:
        """What to write instead, as a sentence with the file's own keys."""
        if isinstance(value, str) and value in self.values:
            return f'[{self.section}] {self.old} = "{value}" is now {self.new} = "{self.values[value]}"'
        return f"[{self.section}] {self.old} is now {self.new}"


RENAMINGS = (
    Renaming("model", "strategy", "networks", {"frozen": "none"}),
    Renaming("model", "prior", "lower_fidelity"),
    Renaming("acquisition", "first_pass", "prefilter"),
    Renaming("acquisition", "first_batch", "first_batch", {"prior": "estimate"}),
    Renaming("acquisition", "prior", "first_batch_estimate"),
)


def current_names(settings: Mapping[str, object], where: str) -> tuple[Settings, list[str]]:
    """Settings with the current keys, and a sentence for each that had an old one.

    Raises
    ------
    ConfigurationError
        If a setting is given twice, under its old and its new name.
    """
    sentences: list[str] = []
    current = {
        name: _renamed_section(name, section, sentences, where) if isinstance(section, Mapping) else section
        for name, section in settings.items()
    }
    return current, sentences


def warn_of_old_names(sentences: Sequence[str], where: str) -> None:
    """Warn of keys with old names, if there are any."""
    if sentences:
        warnings.warn(
            f"{where}: {'; '.join(sentences)}. Old names end with version {LAST}; `kappascout config upgrade DIR` "
            "rewrites a campaign.toml",
            RenamedSettingWarning,
            stacklevel=3,
        )


def _renamed_section(name: str, section: Mapping[str, object], sentences: list[str], where: str) -> Settings:
    found: Settings = {}
    for key, value in section.items():
        renaming = _renaming(name, key, value)
        if renaming is None:
            found[key] = value
            continue
        if renaming.new != key and renaming.new in section:
            raise ConfigurationError(
                f"{where}: [{name}] {key} and {renaming.new} are the same setting; keep {renaming.new}"
            )
        sentences.append(renaming.describe(value))
        found[renaming.new] = renaming.value(value)
    return found


def _renaming(section: str, key: str, value: object) -> Renaming | None:
    return next((r for r in RENAMINGS if r.section == section and r.applies(key, value)), None)


def upgraded(text: str, where: str) -> tuple[str, list[str]]:
    """Text of a ``campaign.toml`` with the current keys, and a sentence for each that changed.

    Comments, order and layout stay; keys that are commented out are renamed too.

    Raises
    ------
    ConfigurationError
        If a setting is given twice, or the file is written in a way that cannot be changed key by key.
    """
    import tomlkit
    from tomlkit.items import AbstractTable

    document = tomlkit.parse(text)
    expected, sentences = current_names(document.unwrap(), where)
    for key, section in document.body:
        if key is not None and isinstance(section, AbstractTable):
            _rename_in(key.key, section.value.body)
    new = document.as_string()
    if tomlkit.parse(new).unwrap() != expected:
        raise ConfigurationError(f"{where} is written in an unusual way; change it by hand: {'; '.join(sentences)}")
    return new, sentences


def _rename_in(section: str, body: Body) -> None:
    """Rename the keys of one section, in place."""
    import tomlkit
    from tomlkit.items import Comment, SingleKey

    for i, (key, item) in enumerate(body):
        if isinstance(item, Comment):
            item.trivia.comment = _comment(section, item.trivia.comment)
        elif key is not None and (renaming := _renaming(section, key.key, item.unwrap())):
            fresh, trivia = tomlkit.item(renaming.value(item.unwrap())), item.trivia
            longer = len(renaming.new) - len(key.key) + len(fresh.as_string()) - len(item.as_string())
            fresh.trivia.indent, fresh.trivia.trail = trivia.indent, trivia.trail
            fresh.trivia.comment, fresh.trivia.comment_ws = trivia.comment, _moved(trivia.comment_ws, longer)
            original = key.as_string().replace(key.key, renaming.new, 1)
            body[i] = SingleKey(renaming.new, sep=key.sep, original=original), fresh


def _comment(section: str, comment: str) -> str:
    """A comment with a key that is commented out, under its current name; other comments unchanged."""
    off = re.match(r"(#\s*)(\w+)(\s*=\s*)(\"[^\"]*\"|\S+)(\s*)", comment)
    if off is None:
        return comment
    start, key, equals, value, space = off.groups()
    renaming = _renaming(section, key, value.strip('"'))
    if renaming is None:
        return comment
    new = value if renaming.value(value.strip('"')) == value.strip('"') else f'"{renaming.value(value.strip(chr(34)))}"'
    space = _moved(space, len(renaming.new) + len(new) - len(key) - len(value))
    return f"{start}{renaming.new}{equals}{new}{space}{comment[off.end() :]}"


def _moved(space: str, longer: int) -> str:
    """Space before a comment, so that comments stay aligned where a key becomes longer."""
    return " " * max(2, len(space) - longer) if len(space) > 1 else space
