"""Streaming JSON: items of a list and members of an object, one at a time in memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import IO, Any

BLOCK = 1 << 20
"""Characters read at once."""
LONGEST = 1 << 30
"""Most characters of one value; a longer one would not fit into memory when parsed."""


class UnreadableValueError(ValueError):
    """A value was skipped; the text after it can be read."""


class JsonStream:
    """Forward position in a JSON document; invalid JSON raises ``ValueError``."""

    def __init__(self, stream: IO[str]):
        self._stream = stream
        self._block = ""
        self._place = 0
        self._decoder = json.JSONDecoder()

    def peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            self._place = _SPACE.match(self._block, self._place).end()  # type: ignore[union-attr]
            if self._place < len(self._block):
                return self._block[self._place]
            if not self._more():
                return ""

    def value(self) -> Any:
        """Parse the next value.

        Raises
        ------
        UnreadableValueError
            It is JSON that Python cannot parse (nested too deep, a number of thousands of digits) and was skipped.
        ValueError
            It is not JSON, or the document ends within it.
        """
        if not self.peek():
            raise ValueError("the document does not end, or an item is not JSON")
        while True:
            try:
                value, end = self._decoder.raw_decode(self._block, self._place)
            except json.JSONDecodeError as error:
                if not self._more():
                    raise ValueError(f"the document does not end, or an item is not JSON: {error}") from None
                continue
            except (RecursionError, ValueError) as error:
                self._pass_over()
                raise UnreadableValueError(f"a value that cannot be read: {error}") from None
            # a number may continue in the next block
            if end < len(self._block) or not self._more():
                self._place = end
                return value

    def items(self) -> Iterator[Any]:
        """Parse the list that starts here, item by item."""
        for _ in self.places():
            yield self.value()

    def places(self) -> Iterator[None]:
        """Stop at each item of the list that starts here; the caller reads it before the next stop."""
        self._take("[")
        while (character := self.peek()) != "]":
            if character == ",":
                self._place += 1
                continue
            yield
        self._place += 1

    def keys(self) -> Iterator[str]:
        """Keys of the object that starts here; the caller reads each one's value before the next key."""
        self._take("{")
        while (character := self.peek()) != "}":
            if character == ",":
                self._place += 1
                continue
            key = self.value()
            if not isinstance(key, str):
                raise ValueError(f"an object's key is {str(key)[:40]}, not a string")
            self._take(":")
            yield key
        self._place += 1

    def _take(self, character: str) -> None:
        if (found := self.peek()) != character:
            raise ValueError(f"{found!r} instead of {character!r}")
        self._place += 1

    def _pass_over(self) -> None:
        """Skip a value without parsing it."""
        depth, in_string = 0, False
        while True:
            found = _MARK.search(self._block, self._place)
            if found is None:
                self._place = len(self._block)
                if not self._more():
                    raise ValueError("the document does not end")
                continue
            mark = found[0]
            if mark in ",]}" and depth == 0 and not in_string:
                self._place = found.start()
                return
            self._place = found.end()
            if mark.startswith("\\"):
                continue
            if mark == '"':
                in_string = not in_string
            elif not in_string and mark != ",":
                depth += 1 if mark in "[{" else -1
                if depth == 0:
                    return

    def _more(self) -> bool:
        """Read as much again as is left, so that a value of any size is tried only a few times."""
        left = len(self._block) - self._place
        if left > LONGEST:
            raise ValueError(f"a value of more than {LONGEST} characters")
        more = self._stream.read(max(BLOCK, left))
        self._block, self._place = self._block[self._place :] + more, 0
        return bool(more)


_SPACE = re.compile(r"\s*")
_MARK = re.compile(r'\\.|["\[\]{},]', re.DOTALL)
