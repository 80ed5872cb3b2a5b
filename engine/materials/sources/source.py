"""Interface of a database on the network: pages of raw records, each with the start of the next one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from engine.exceptions import SourceError
from engine.materials.checks import Rejection, RejectionReason
from engine.materials.sources.kinds import SourceKind

if TYPE_CHECKING:
    from engine.materials.formats import RawRecord

Say = Callable[[str], None]


@dataclass(frozen=True)
class Page:
    """One page of records of a database."""

    records: list[RawRecord | Rejection]
    next: str | None
    """Start of the next page, an argument of :meth:`DatabaseSource.pages`; None at the end."""
    total: int | None = None
    """Number of records that the database announces for the whole query; it may be wrong."""
    version: str | None = None
    """Version of the database, in its own format."""
    row_versions: Mapping[str, str] = field(default_factory=dict)
    """Version by record id, where each row has its own."""
    notes: tuple[str, ...] = ()
    """Notes for the user."""


class DatabaseSource(ABC):
    """A query to one database.

    A new database is one class: it derives from this one, with its ``kind``, and
    :func:`engine.materials.sources.registry.register` makes the prefix of the kind a source of ``kappascout ingest``.
    """

    kind: ClassVar[SourceKind]
    """Prefix, name and examples."""
    origin: str
    """Name of the database in the provenance of every row."""
    query: str
    """The query, in the database's language."""

    def __init__(self, query: str, say: Say):
        """Read the query: what stands behind the prefix; ``say`` takes lines of progress.

        Raises
        ------
        SourceError
            If the query cannot be understood; nothing is requested yet.
        """
        self.query = query

    @abstractmethod
    def pages(self, start: str | None = None) -> Iterator[Page]:
        """Every page from ``start``, the first if None, in a fixed order.

        Raises
        ------
        SourceError
            As :meth:`engine.materials.sources.server.Server.get`, and where the database contradicts itself.
        """


def not_an_object(document: object, source: str, record_id: str) -> Rejection:
    """Refuse an entry of a page that is not a record."""
    message = f"the entry is {type(document).__name__}, not an object"
    return Rejection(source, record_id, RejectionReason.UNREADABLE, message, "report it to the database")


def address(url: str) -> str:
    """An address without a password in it.

    Raises
    ------
    SourceError
        If there is one: the address is stored with every row.
    """
    if "@" in url.partition("?")[0]:
        raise SourceError("the address holds a user or password, which would be stored with every row; leave it out")
    return url
