"""Workspace of a campaign: its folder, settings, store, backbones and lock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from campaigns.configuration import FILE, Configuration, read_configuration
from campaigns.exceptions import CampaignBusyError, CampaignError
from campaigns.files import python_beside
from db.connection import STRUCTURES
from db.store import Store

if TYPE_CHECKING:
    from filelock import FileLock

    from engine.learning.backbones.stack import AnyBackbone


@dataclass(frozen=True, eq=False)
class Workspace:
    """An open campaign directory: ``campaign.toml``, the store, and ``artifacts/``."""

    directory: Path
    configuration: Configuration
    """``campaign.toml`` as it was when the campaign was opened."""
    store: Store
    features: Path
    """Folder of graphs and embeddings; campaigns on the same crystals may share one."""

    @classmethod
    def open(cls, directory: Path, features: Path | None = None) -> Workspace:
        """Open an existing campaign directory and check its settings; ``features`` are in ``artifacts`` by default."""
        configuration = read_configuration(directory / FILE)
        store = Store.open(
            store_url(configuration, directory),
            campaign=configuration.campaign.name,
            timeout=configuration.store.timeout,
            structures=directory / STRUCTURES,
        )
        store.label_limits = {name: (r.min, r.max) for name, r in configuration.labels.limits.items()}
        return cls(directory, configuration, store, features or directory / "artifacts")

    @property
    def artifacts(self) -> Path:
        """Folder of everything that is not in the store."""
        return self.directory / "artifacts"

    def relative(self, path: Path) -> str:
        """Path of a file of the campaign as the store keeps it: relative to the directory, with slashes."""
        return path.relative_to(self.directory).as_posix()

    def backbone(self, names: str | Sequence[str]) -> AnyBackbone:
        """Load a checked backbone by name, or by a path relative to the campaign directory; or several side by side.

        Potentials among them run by the Python of ``[model] potential_python``.
        """
        from engine.learning.ensemble.storage import cached_starts
        from engine.physics.calculator_specs import is_calculator_spec, with_python_each

        given = [names] if isinstance(names, str) else names
        python = python_beside(self.directory, self.configuration.model.potential_python)
        found: list[str | Path] = []
        for name in with_python_each(given, python):
            beside = self.directory / name
            found.append(beside if not is_calculator_spec(name) and beside.exists() else name)
        return cached_starts(found)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock that keeps other processes from changing the campaign; a second one raises an error."""
        from filelock import Timeout

        try:
            with self._file_lock.acquire(timeout=0):
                yield
        except Timeout as error:
            raise CampaignBusyError(
                f"another process works on {self.directory}; wait until it has finished, then run the command again"
            ) from error
        except PermissionError as error:
            raise CampaignError(
                f"no permission to write to {error.filename or self.directory}; change its owner, or copy the campaign "
                "to a directory of yours"
            ) from error

    @cached_property
    def _file_lock(self) -> FileLock:
        from filelock import FileLock

        return FileLock(self.directory / ".lock")


def store_url(configuration: Configuration, directory: Path) -> str | Path:
    """Database URL of a campaign's store, or the path of its SQLite file."""
    return configuration.store.url or directory / "store.sqlite"


def upgrade_store(directory: Path) -> tuple[str, str]:
    """Bring a campaign's store to this program's version; returns the versions before and after."""
    configuration = read_configuration(directory / FILE)
    return Store.upgrade(store_url(configuration, directory), configuration.store.timeout, directory / STRUCTURES)
