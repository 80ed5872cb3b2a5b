"""Databases by the prefix of a source; the class of each is imported when it is needed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeVar

from engine.exceptions import SourceError
from engine.materials.sources.kinds import AFLOW, BUILT_IN, KINDS, MATERIALS_PROJECT, OPTIMADE
from engine.materials.sources.source import DatabaseSource, Say
from engine.naming import suggestion

_Class = TypeVar("_Class", bound=type[DatabaseSource])
SOURCES: dict[str, type[DatabaseSource]] = {}
"""Classes by prefix besides the three of this program."""
_PREFIX = re.compile(r"([A-Za-z]\w+):")


def register(source: _Class) -> _Class:
    """Make a database a source of ``kappascout ingest``, by the prefix of its kind; a class decorator.

    Raises
    ------
    SourceError
        If the prefix is taken.
    """
    kind = source.kind
    if kind.prefix in KINDS or any(name.startswith(f"{kind.prefix}:") for name in BUILT_IN):
        known = KINDS[kind.prefix].database if kind.prefix in KINDS else "crystals that come with this program"
        raise SourceError(f"a source {kind.prefix!r} is registered already ({known}); give another prefix")
    KINDS[kind.prefix], SOURCES[kind.prefix] = kind, source
    return source


def is_remote(text: str) -> bool:
    """Whether ``text`` names a database rather than a file."""
    return ":" in text and text.partition(":")[0] in KINDS


def check_source(text: str) -> None:
    """Refuse a source that is neither a database, a built-in set nor an existing file, and looks like one of the first.

    Raises
    ------
    SourceError
        With the prefixes and built-in sets that there are, the nearest first.
    """
    prefix = _PREFIX.match(text)
    if prefix is None or text in BUILT_IN or is_remote(text) or Path(text).exists():
        return
    if any(name.startswith(prefix[0]) for name in BUILT_IN):
        raise SourceError(f"no built-in set {text!r}; {suggestion(text, BUILT_IN)}there are {' and '.join(BUILT_IN)}")
    known = [*KINDS, BUILT_IN[0].partition(":")[0]]
    databases = ", ".join(f"{kind.prefix}: ({kind.database})" for kind in KINDS.values())
    raise SourceError(
        f"{text!r} is neither a file nor a database with the prefix {prefix[1]!r}; "
        f"{suggestion(prefix[1], known)}give a file, a folder, {', '.join(BUILT_IN)}, or one of {databases}; a class "
        "of your own is known once the module that registers it is imported"
    )


def open_source(text: str, say: Say) -> DatabaseSource:
    """The source that ``text`` names: ``mp:QUERY``, ``optimade:URL`` or ``optimade:NAME:FILTER``, ``aflow:QUERY``.

    Raises
    ------
    SourceError
        The query cannot be understood, the provider is not known, or a key is missing; nothing has been requested yet.
    """
    prefix, _, query = text.partition(":")
    return _class_of(prefix)(query.strip(), say)


def _class_of(prefix: str) -> type[DatabaseSource]:
    if prefix == MATERIALS_PROJECT.prefix:
        from engine.materials.sources.materials_project import MaterialsProject

        return MaterialsProject
    if prefix == OPTIMADE.prefix:
        from engine.materials.sources.optimade import Optimade

        return Optimade
    if prefix == AFLOW.prefix:
        from engine.materials.sources.aflow import Aflow

        return Aflow
    return SOURCES[prefix]
