"""The cluster of a campaign: its queueing system, and the folders of calculations there and here."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from campaigns.cluster.hosts import machine
from campaigns.cluster.schedulers import Scheduler
from campaigns.exceptions import ClusterError
from campaigns.exchange.manifest import ENTRY, Entry

if TYPE_CHECKING:
    from campaigns.workspace import Workspace
    from db.records import QueueEntryRecord


@dataclass(frozen=True)
class Cluster:
    """Where the calculations of a campaign are done."""

    scheduler: Scheduler
    root: Path
    """Folder of the calculations on this machine, a copy of what is read of them where the cluster is elsewhere."""
    there: str
    """Folder of the calculations on the cluster's machine."""
    lost_after: float
    """Seconds without a sign of life before a job is vanished."""

    @classmethod
    def of(cls, workspace: Workspace) -> Cluster:
        """The cluster that ``[cluster]`` describes.

        Raises
        ------
        ClusterError
            If the folder on another machine is not an absolute path.
        """
        section = workspace.configuration.cluster
        if section.host and not section.folder.startswith("/"):
            raise ClusterError(
                f"[cluster] folder = {section.folder!r} is on host {section.host}; give an absolute path there"
            )
        own = workspace.directory / ("calculations" if section.host else section.folder)
        root = own.resolve()
        there = section.folder if section.host else str(root)
        return cls(Scheduler(section.scheduler, machine(section.host)), root, there, section.lost_after)

    def entries(self, wanted: Sequence[QueueEntryRecord]) -> dict[int, tuple[str, Entry]]:
        """Folder and manifest of the calculations that are here, by the id of their queue entry."""
        from campaigns.exchange.export import folder_name

        found = {}
        for entry in wanted:
            name = folder_name(entry)
            path = self.root / name / ENTRY
            if entry.id is not None and path.exists():
                found[entry.id] = name, Entry.from_json(path.read_text(encoding="utf-8"), str(path))
        return found

    def send_new(self, name: str) -> None:
        """Bring the folder of a calculation to the cluster's machine, unless it is there."""
        machine = self.scheduler.machine
        if machine.name and machine.run(f"test -e {shlex.quote(self.place(name))}/{ENTRY}", "/").code:
            self.send([name])

    def send(self, names: Sequence[str]) -> None:
        """Bring folders of calculations to the cluster's machine."""
        self.scheduler.machine.send(self.root, names, self.there)

    def fetch(self, names: Sequence[str]) -> None:
        """Bring the records and results of calculations to this machine."""
        self.scheduler.machine.fetch(self.root, names, self.there)

    def place(self, name: str) -> str:
        """Folder of a calculation on the cluster's machine."""
        return f"{self.there}/{name}"

    @property
    def any_folder(self) -> str:
        """A folder on the cluster's machine for commands that need none."""
        return "/" if self.scheduler.machine.name else str(Path.cwd())
