"""Position up to which a database has been read: one small file for each source, written after every page."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from campaigns.exceptions import CampaignError
from campaigns.files import write_whole


@dataclass(frozen=True)
class Cursor:
    """Position in one source; a finished source, and one never read, start at the beginning."""

    source: str
    """As the user wrote it, e.g. ``mp:is_stable=true``."""
    next: str | None = None
    """Start of the next page, in the source's format; None at the beginning and after the end."""
    page: int = 0
    """Number of pages in the store."""
    read: int = 0
    """Number of records on these pages."""
    database_version: str | None = None

    @classmethod
    def load(cls, folder: Path | None, source: str) -> Cursor:
        """Read the position of an interrupted ingest of ``source``, else the beginning."""
        path = None if folder is None else _path(folder, source)
        if path is None or not path.exists():
            return cls(source)
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise CampaignError(f"{path} is damaged; delete it, and {source} is read from its beginning") from error

    def write(self, folder: Path | None) -> None:
        """Write the position to the folder, or remove it at the end of the source."""
        if folder is None:
            return
        path = _path(folder, self.source)
        if self.next is None:
            path.unlink(missing_ok=True)
        else:
            write_whole(path, json.dumps(asdict(self), indent=1))


def _path(folder: Path, source: str) -> Path:
    return folder / f"{hashlib.sha256(source.encode()).hexdigest()[:16]}.json"
