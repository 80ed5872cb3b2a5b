"""Classes of databases by the word before the colon; each is imported when needed."""

from __future__ import annotations

from collections.abc import Callable

from engine.materials.sources.source import DatabaseSource, Say


def is_remote(text: str) -> bool:
    """Whether ``text`` names a database rather than a file."""
    return text.partition(":")[0] in _OPENERS and ":" in text


def open_source(text: str, say: Say) -> DatabaseSource:
    """The source that ``text`` names: ``mp:QUERY``, ``optimade:URL`` or ``optimade:NAME:FILTER``, ``aflow:QUERY``.

    Raises
    ------
    SourceError
        The query cannot be understood, the provider is not known, or a key is missing; nothing has been requested yet.
    """
    kind, _, query = text.partition(":")
    return _OPENERS[kind](query.strip(), say)


def _materials_project(query: str, say: Say) -> DatabaseSource:
    from engine.materials.sources.materials_project import MaterialsProject

    return MaterialsProject(query, say)


def _optimade(query: str, say: Say) -> DatabaseSource:
    from engine.materials.sources.optimade import Optimade

    return Optimade(query, say)


def _aflow(query: str, say: Say) -> DatabaseSource:
    from engine.materials.sources.aflow import Aflow

    return Aflow(query, say)


_OPENERS: dict[str, Callable[[str, Say], DatabaseSource]] = {
    "mp": _materials_project,
    "optimade": _optimade,
    "aflow": _aflow,
}
