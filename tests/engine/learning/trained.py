"""Ensembles that several tests of a file share."""

from __future__ import annotations

from collections.abc import Callable

from engine.learning.ensemble.ensemble import Ensemble


class Trained(dict[str, Ensemble]):
    """Ensembles by name, each trained once, when a test first needs it: another process may run only some tests."""

    def __init__(self, train: Callable[[str], Ensemble]) -> None:
        super().__init__()
        self._train = train

    def __missing__(self, name: str) -> Ensemble:
        self[name] = self._train(name)
        return self[name]
