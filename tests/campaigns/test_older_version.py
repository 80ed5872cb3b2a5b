"""A campaign that version 0.1.0 left in the middle of its second round goes on with this program.

``fixtures/campaign-0.1.0.tar.gz`` was written by 0.1.0: 14 crystals of the L96 set, labels from two files, a first
round with labels and a failure, and a second one that was killed once its three members were trained. The weights of
the shipped backbone are left out of it, for their size.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tarfile
from importlib import resources
from pathlib import Path

import pytest
from alembic import command

from campaigns.campaign import Campaign
from campaigns.exceptions import RenamedSettingWarning
from db.connection import STRUCTURES, make_engine, to_url
from db.schema import alembic_config
from db.tables import SCHEMA_VERSION
from tests.campaigns.helpers import done, queue, refused
from tests.conftest import REPOSITORY

ARCHIVE = REPOSITORY / "tests" / "fixtures" / "campaign-0.1.0.tar.gz"
FIRST = [("L96-010", "done"), ("L96-011", "done"), ("L96-012", "failed")]
SECOND = {"L96-013": (0.85476, 0.46461), "L96-009": (0.98119, 0.39384), "L96-008": (1.17488, 0.36894)}
"""What 0.1.0 itself queued when its second round went on: ids in their order, log10 of kappa and its deviation."""
KILLED = """
import os, signal, sys
from pathlib import Path
from sqlalchemy import Engine, event
from campaigns.workspace import upgrade_store

def kill(connection, cursor, statement, parameters, context, executemany):
    if statement.startswith("UPDATE alembic_version"):
        os.kill(os.getpid(), signal.SIGKILL)

event.listen(Engine, "after_cursor_execute", kill)
upgrade_store(Path(sys.argv[1]))
"""


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """Directory of the campaign."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    directory = tmp_path / "campaign-0.1.0"
    (kept,) = (directory / "artifacts" / "backbones").iterdir()
    shipped = resources.files("engine.learning.backbones") / "megnet-multiproperty" / "weights.safetensors"
    with resources.as_file(shipped) as weights:
        shutil.copy(weights, kept)
    return directory


def test_it_goes_on_where_it_was(older: Path) -> None:
    assert f"kappascout db upgrade {older}" in refused("queue", "list", older)
    assert f"0002 -> {SCHEMA_VERSION}" in done("db", "upgrade", older).err
    assert [(entry["id"], entry["state"]) for entry in queue(older)] == FIRST
    assert done("status", older, "--format", "json").json["last_round"] == "trained"
    assert len(done("label", "list", older, "--format", "json").json) == 10
    done("run", older, "--quiet")
    second = [entry for entry in queue(older) if entry["round"] == 2]
    assert [(entry["id"], entry["state"]) for entry in second] == [(id_, "proposed") for id_ in SECOND]
    found = [(entry["log10_mean"], entry["log10_std"]) for entry in second]
    assert found == [pytest.approx(pair, abs=2e-4) for pair in SECOND.values()]
    done("models", "verify", older)


@pytest.mark.parametrize("version", ["0001", "0002"])
def test_an_upgrade_that_was_killed_is_done_again(older: Path, version: str) -> None:
    """Its store as older tables have it; nothing is kept of half an upgrade."""
    url = to_url(older / "store.sqlite")
    engine = make_engine(url, 1.0, foreign_keys=False)
    with engine.execution_options(writes=True).begin() as connection:
        command.downgrade(alembic_config(connection, older / STRUCTURES), version)
    engine.dispose()
    assert f"kappascout db upgrade {older}" in refused("queue", "list", older)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(older)], cwd=REPOSITORY, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert f"kappascout db upgrade {older}" in refused("queue", "list", older)
    assert f"{version} -> {SCHEMA_VERSION}" in done("db", "upgrade", older).err
    assert [(entry["id"], entry["state"]) for entry in queue(older)] == FIRST
    assert len(done("label", "list", older, "--format", "json").json) == 10
    with pytest.warns(RenamedSettingWarning, match="config upgrade"):
        campaign = Campaign.open(older)
    with campaign:
        assert [record.structure["numbers"] for record in campaign.store.materials(["L96-010"])] == [[48, 8]]
