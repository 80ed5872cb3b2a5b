"""Databases by the prefix of a source, and names of the built-in sets; read by the help without loading a client.

A database of one's own is a class with its own :class:`SourceKind`, see
:class:`engine.materials.sources.source.DatabaseSource`; :func:`engine.materials.sources.registry.register` adds it to
:data:`KINDS`.
"""

from __future__ import annotations

from dataclasses import dataclass

REFERENCE = "builtin:reference"
"""Crystals with published conductivities."""
CANDIDATES = "builtin:candidates"
"""Generated crystals."""
BUILT_IN = (REFERENCE, CANDIDATES)


@dataclass(frozen=True)
class SourceKind:
    """A database that ``kappascout ingest DIR PREFIX:QUERY`` reads."""

    prefix: str
    """Word before the colon."""
    database: str
    """Name of the database, in messages."""
    examples: tuple[str, ...]
    """Sources as a user writes them, for the help: ``aflow:species(Na,Cl),nspecies(2)``."""
    labels: tuple[str, ...] = ()
    """Properties of its records that are labels, in the form of ``ingest --label``: ``FIELD=PROPERTY@FIDELITY``."""


MATERIALS_PROJECT = SourceKind(
    "mp", "the Materials Project", ("mp:is_stable=true,nelements=2-4", "mp:mp-149,mp-13 (key in MP_API_KEY)")
)
OPTIMADE = SourceKind(
    "optimade", "OPTIMADE providers", ("optimade:NAME:FILTER", "optimade:https://HOST/PATH?filter=...")
)
AFLOW = SourceKind(
    "aflow",
    "AFLOW",
    ("aflow:species(Na,Cl),nspecies(2)",),
    labels=("kappa_agl_300K_W_mK=kappa_300K@agl",),  # conductivities by the quasi-harmonic Debye model
)

KINDS: dict[str, SourceKind] = {kind.prefix: kind for kind in (MATERIALS_PROJECT, OPTIMADE, AFLOW)}
"""Databases by prefix, in the order of the help; :func:`engine.materials.sources.registry.register` adds."""


def described() -> str:
    """Everything that crystals may come from besides files, for help texts."""
    databases = ", ".join(" or ".join(kind.examples) for kind in KINDS.values())
    return f"{', '.join(BUILT_IN)}; databases: {databases}"
