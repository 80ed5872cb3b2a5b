"""What a database on the network is to us: pages of raw records, each of which says where the next one starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from engine.exceptions import SourceError
from engine.materials.checks import Rejection, RejectionReason

if TYPE_CHECKING:
    from engine.materials.formats import RawRecord

Say = Callable[[str], None]


@dataclass(frozen=True)
class Page:
    """One answer of a database."""

    records: list[RawRecord | Rejection]
    next: str | None
    """Where the following page starts, to be given to :meth:`DatabaseSource.pages`; None at the end."""
    total: int | None = None
    """How many records the database announces for the whole query; it may be wrong."""
    version: str | None = None
    """Of the database, in its own words."""
    row_versions: Mapping[str, str] = field(default_factory=dict)
    """By record id, where each row has a version of its own."""
    notes: tuple[str, ...] = ()
    """What the user should know."""


class DatabaseSource(Protocol):
    """A query to one database."""

    @property
    def origin(self) -> str:
        """The database, as it stands in the record of every row."""

    @property
    def query(self) -> str:
        """What was asked for, in the database's language."""

    def pages(self, start: str | None = None) -> Iterator[Page]:
        """Every page from ``start``, the first if None, in a fixed order.

        Raises
        ------
        SourceError
            As :meth:`engine.materials.sources.server.Server.get`, and where the database contradicts itself.
        """


def not_an_object(document: object, source: str, record_id: str) -> Rejection:
    """Refuse an entry of a page that is no record at all."""
    message = f"the entry is {type(document).__name__}, not an object"
    return Rejection(source, record_id, RejectionReason.UNREADABLE, message, "report it to the database")


def address(url: str) -> str:
    """An address without a password in it.

    Raises
    ------
    SourceError
        There is one: the address is kept with every row, and secrets are not.
    """
    if "@" in url.partition("?")[0]:
        raise SourceError("the address holds a user or password, which would be kept with every row; leave it out")
    return url
