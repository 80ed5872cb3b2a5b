"""The material of an id, for any of its ids, and rows of some materials."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import TypeVar

from sqlalchemy import Row as RowOf
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from db.connection import chunks
from db.exceptions import UnknownMaterialError
from db.tables import Failure, Label, Material, Source

Row = TypeVar("Row", Label, Failure)


def resolve_owners(session: Session, campaign_pk: int, ids: Iterable[str]) -> dict[str, tuple[int, str]]:
    """Row and id of the material of each id, for any of its ids; unknown ids raise one error."""
    wanted = list(dict.fromkeys(ids))
    owners = find_owners(session, campaign_pk, wanted)
    if unknown := [record_id for record_id in wanted if record_id not in owners]:
        shown = ", ".join(repr(record_id) for record_id in unknown[:20])
        more = f" and {len(unknown) - 20} more" if len(unknown) > 20 else ""
        raise UnknownMaterialError(f"no material under {shown}{more}; ingest it first, or check the id")
    return owners


def find_owners(session: Session, campaign_pk: int, ids: Iterable[str]) -> dict[str, tuple[int, str]]:
    """Row and id of the material of each id; unknown ids are absent."""
    owners: dict[str, tuple[int, str]] = {}
    query = select(Source.record_id, Material.id, Material.material_id).join(
        Material, Source.material_pk == Material.id
    )
    for part in chunks(dict.fromkeys(ids)):
        rows = session.execute(query.where(Source.campaign_id == campaign_pk, Source.record_id.in_(part)))
        owners.update({record_id: (pk, material_id) for record_id, pk, material_id in rows})
    return owners


def of_materials(
    session: Session, campaign_pk: int, query: Select[Row, str], table: type[Row], ids: Collection[str] | None
) -> Iterator[RowOf[Row, str]]:
    """Rows of ``query``, of the materials under ``ids`` only if those are given."""
    if ids is None:
        yield from session.execute(query)
        return
    pks = {pk for pk, _ in resolve_owners(session, campaign_pk, ids).values()}
    for part in chunks(sorted(pks)):
        yield from session.execute(query.where(table.material_pk.in_(part)))
