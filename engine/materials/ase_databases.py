"""ASE databases on disk, in SQLite and in LMDB, to raw records."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.exceptions import EngineError
from engine.materials.checks import Rejection, RejectionReason
from engine.materials.containers import damaged
from engine.materials.elements import SYMBOLS
from engine.materials.formats import Format, RawRecord

if TYPE_CHECKING:
    from ase.db.row import AtomsRow


def read_ase_database(path: Path, stem: str, source: str) -> Iterator[RawRecord | Rejection]:
    """One record for each row of an ASE database; its key-value pairs and its energy are properties."""
    try:
        for row in _ase_lmdb_rows(path) if path.name.lower().endswith(".aselmdb") else _ase_sqlite_rows(path):
            where = f"{source}[{row.id}]"
            if not row.pbc.all() or abs(np.linalg.det(row.cell)) < 1e-9:
                message = "the row has no cell that repeats in three directions"
                remedy = "leave molecules and slabs without a cell out"
                yield Rejection(where, f"{stem}-{row.id}", RejectionReason.MISSING_FIELD, message, remedy)
                continue
            yield RawRecord(f"{stem}-{row.id}", Format.JSON, _ase_row(row), where)
    except (sqlite3.Error, OSError, KeyError, ValueError, zlib.error) as error:
        yield damaged(source, stem, error)


def _ase_sqlite_rows(path: Path) -> Iterator[AtomsRow]:
    import ase.db

    with path.open("rb") as stream:
        if stream.read(16) != b"SQLite format 3\0":
            raise sqlite3.DatabaseError("it is not an SQLite file, as an ASE database is")
    yield from ase.db.connect(path, type="db", use_lock_file=False).select()


def _ase_lmdb_rows(path: Path) -> Iterator[AtomsRow]:
    """Rows of an ASE database in LMDB, compressed JSON."""
    import ase.db

    try:
        import lmdb
        from ase_db_backends.aselmdb import LMDBDatabase  # noqa: F401
    except ImportError as error:
        raise EngineError(
            f"{path} is an ASE database in LMDB, and {error.name} is not installed; install it with "
            "`pip install kappascout[lmdb]`"
        ) from error
    try:
        with lmdb.open(str(path), subdir=False, readonly=True, lock=False) as whole:
            size = (whole.info()["last_pgno"] + 1) * whole.stat()["psize"]
        if path.stat().st_size < size:  # reading further would crash the process
            raise EOFError(f"it has {path.stat().st_size} of {size} bytes")
        with ase.db.connect(path, type="aselmdb", readonly=True) as database:
            yield from database.select()
    except (lmdb.Error, EOFError) as error:
        raise OSError(str(error)) from error


def _ase_row(row: AtomsRow) -> dict[str, object]:
    energy = {"energy_eV": float(row.energy)} if "energy" in row else {}
    known = {
        key: value.item() if isinstance(value, np.generic) else value for key, value in row.key_value_pairs.items()
    }
    own = {key: known[key] for key in ("id", "material_id", "jid", "mat_id") if key in known}
    return {
        **own,
        "lattice": row.cell.tolist(),
        "species": [SYMBOLS[z] for z in row.numbers],
        "frac_coords": np.linalg.solve(row.cell.T, row.positions.T).T.tolist(),
        "properties": energy | {key: value for key, value in known.items() if key not in own},
    }
