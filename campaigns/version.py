"""Version of this program, for manifests, models and labels."""

from __future__ import annotations

from importlib.metadata import version


def code_version() -> str:
    """Version of the installed package, as in ``0.1.0``."""
    return version("kappascout")
