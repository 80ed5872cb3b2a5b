"""Text of any encoding and line ends as UTF-8 with line feeds."""

from __future__ import annotations

import codecs
import io
from typing import IO

_LOOK = 1 << 16
"""Number of first bytes that determine the encoding."""
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)


def as_utf8(stream: IO[bytes]) -> IO[bytes]:
    """A stream that is read from its start without a mark, in UTF-8; carriage returns alone become line feeds."""
    start = _start(stream)
    if is_utf8(start):
        return stream
    encoding = _encoding(start)
    # bytes that are not UTF-8 are passed unchanged, so that the reader reports them
    errors = "surrogateescape" if encoding in (None, "utf-8-sig") else "replace"
    text = io.TextIOWrapper(stream, encoding or "utf-8", errors=errors, newline=None)
    return io.BufferedReader(_Recoded(text), _LOOK)


def _start(stream: IO[bytes]) -> bytes:
    """First bytes of a stream, which stays at its start."""
    if not isinstance(stream, io.BytesIO):
        return bytes(stream.peek(_LOOK))  # type: ignore[attr-defined]
    start = stream.read(_LOOK)
    stream.seek(0)
    return start


def is_utf8(start: bytes) -> bool:
    """Whether a text can be read as it is, by its first bytes."""
    return _encoding(start) is None and not (b"\r" in start.rstrip(b"\r") and b"\n" not in start)


def _encoding(start: bytes) -> str | None:
    """Encoding of a text by its first bytes; None for UTF-8 and its subsets."""
    for mark, encoding in _MARKS:
        if start.startswith(mark):
            return encoding
    odd, even = start[1:200:2], start[0:200:2]
    if len(start) > 3 and not any(odd) and all(even):
        return "utf-16-le"
    return "utf-16-be" if len(start) > 3 and not any(even) and all(odd) else None


class _Recoded(io.RawIOBase):
    """A text as bytes in UTF-8."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        if not self._left:
            self._left = self._text.read(_LOOK).encode("utf-8", "surrogateescape")
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count

    def close(self) -> None:
        self._text.close()
        super().close()
