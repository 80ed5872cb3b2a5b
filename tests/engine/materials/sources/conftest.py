"""Real crystals for the local servers, and no time lost between requests."""

from __future__ import annotations

import pytest

from engine.materials.reference import reference_crystals
from engine.materials.sources import server
from engine.materials.sources.server import Patience
from tests.engine.materials.sources.services import Entry


@pytest.fixture(scope="session")
def crystals() -> list[Entry]:
    """Give 53 of the reference crystals, every fifth, under ids as the Materials Project writes them."""
    chosen = list(reference_crystals().values())[::5]
    return [(f"mp-{n}", crystal, {}) for n, crystal in enumerate(chosen, start=100)]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask three times without waiting."""
    monkeypatch.setattr(server, "PATIENCE", Patience(spacing=0.0, attempts=3, pause=0.001, longest=2.0, timeout=5.0))
