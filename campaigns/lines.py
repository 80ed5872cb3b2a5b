"""Files of JSON lines that grow while a long calculation runs, and that a kill leaves readable."""

from __future__ import annotations

import gzip
import json
import os
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Self

from campaigns.exceptions import CampaignError

_CHUNK = 64
_CHUNK_SECONDS = 30.0
_BLOCK = 1 << 20


@dataclass(eq=False)
class GrowingLines:
    """A file of JSON lines that grows by whole chunks; what a killed program left half-written is cut off."""

    path: Path
    packed: bool
    held: list[bytes] = field(default_factory=list)
    flushed_at: float = field(default_factory=time.monotonic)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a ``.jsonl`` or ``.jsonl.gz`` to append to it; it is made with its first line.

        Raises
        ------
        CampaignError
            If the name has another ending.
        """
        if not path.name.endswith((".jsonl", ".jsonl.gz")):
            raise CampaignError(f"{path} ends in neither .jsonl nor .jsonl.gz; give one of these")
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = cls(path, path.name.endswith(".gz"))
        if path.exists():
            with path.open("r+b") as handle:
                handle.truncate(_whole_members(handle) if lines.packed else handle.read().rfind(b"\n") + 1)
        return lines

    def read(self) -> Iterator[Any]:
        """Each line as Python objects; one that is not JSON raises ``ValueError``."""
        if not self.path.exists():
            return
        with gzip.open(self.path, "rb") if self.packed else self.path.open("rb") as handle:
            for line in handle:
                yield json.loads(line)

    def add(self, record: Mapping[str, object]) -> bool:
        """Add a line; returns whether the lines that were held are on the disk now."""
        self.held.append(json.dumps(record).encode() + b"\n")
        if len(self.held) < _CHUNK and time.monotonic() - self.flushed_at <= _CHUNK_SECONDS:
            return False
        self.flush()
        return True

    def flush(self) -> None:
        """Write the lines that are held."""
        content = b"".join(self.held)
        if content:
            with self.path.open("ab") as handle:
                handle.write(gzip.compress(content) if self.packed else content)
                handle.flush()
                os.fsync(handle.fileno())
        self.held, self.flushed_at = [], time.monotonic()


def _whole_members(handle: BinaryIO) -> int:
    """Bytes of the whole gzip members at the start of a file."""
    end, content, member = 0, handle.read(_BLOCK), zlib.decompressobj(wbits=31)
    while content:
        try:
            member.decompress(content)
        except zlib.error:
            break
        content = member.unused_data or handle.read(_BLOCK)
        if member.eof:
            end = handle.tell() - len(content)
            member = zlib.decompressobj(wbits=31)
    return end
