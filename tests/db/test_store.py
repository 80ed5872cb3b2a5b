from __future__ import annotations

import os
import re
import sqlite3
import tempfile
from pathlib import Path

import pytest

from db.exceptions import (
    IllegalMoveError,
    InvalidRecordError,
    NoCampaignError,
    NotAStoreError,
    StoreError,
    StoreFromNewerVersionError,
    StoreNotFoundError,
    StoreNotWritableError,
    StoreOutdatedError,
    StoreUnreachableError,
)
from db.records import CampaignRecord
from db.states import CampaignState
from db.store import Store
from db.tables import SCHEMA_VERSION, Campaign


def set_version(store_url, version):
    with Store.open(store_url) as store, store.session(write=True) as session:
        session.connection().exec_driver_sql(f"UPDATE alembic_version SET version_num = '{version}'")


def test_open_twice_keeps_everything(store, store_url, pool):
    with Store.open(store_url, create=True) as again:
        assert [key.material_id for key in again.material_index()] == pool
        assert again.campaign() == store.campaign()


def test_a_new_store_is_empty(store):
    assert set(store.counts().values()) == {0}
    campaign = store.campaign()
    assert (campaign.goal, campaign.seed, campaign.settings, campaign.state) == (
        "min",
        7,
        {"batch": 4},
        CampaignState.ACTIVE,
    )
    assert campaign.created_at


def test_campaign_states(store):
    assert store.set_campaign_state(CampaignState.STOPPED).state is CampaignState.STOPPED
    assert store.set_campaign_state(CampaignState.STOPPED).state is CampaignState.STOPPED
    with pytest.raises(IllegalMoveError, match=r"stopped to waiting.*active"):
        store.set_campaign_state(CampaignState.WAITING)
    assert store.set_campaign_state(CampaignState.ACTIVE).state is CampaignState.ACTIVE


def test_campaigns_share_a_store_but_no_material(store, store_url, structures, pool, make_material):
    with pytest.raises(InvalidRecordError, match="'test'"):
        store.create_campaign(CampaignRecord("test", "max", "kappa_300K"))
    with Store.open(store_url, structures=structures) as other:
        other.create_campaign(CampaignRecord("other", "max", "kappa_300K"))
        assert other.counts()["materials"] == 0
        assert other.add_materials([make_material("m0")]).added == ["m0"]
    with Store.open(store_url, campaign="test") as named:
        assert named.counts()["materials"] == 10
        assert [campaign.name for campaign in named.campaigns()] == ["test", "other"]
    with Store.open(store_url) as unnamed, pytest.raises(NoCampaignError, match=r"2 campaigns \(test, other\)"):
        unnamed.counts()
    with Store.open(store_url, campaign="third") as wrong, pytest.raises(NoCampaignError, match="'third'"):
        wrong.counts()


def test_no_campaign_yet(store_url):
    with Store.open(store_url, create=True) as store, pytest.raises(NoCampaignError, match="kappascout init"):
        store.counts()


def test_an_error_rolls_back(store, store_url):
    class UserError(Exception):
        pass

    def change_and_fail():
        with store.session(write=True) as session:
            session.get_one(Campaign, 1).seed = 99
            session.flush()
            raise UserError

    with pytest.raises(UserError):
        change_and_fail()
    with Store.open(store_url) as again:
        assert again.campaign().seed == 7


def test_database_errors_are_ours(store):
    with pytest.raises(StoreError), store.session(write=True) as session:
        session.connection().exec_driver_sql("SELECT * FROM no_such_table")


def test_newer_store_is_refused(store, store_url):
    set_version(store_url, "9999")
    with pytest.raises(StoreFromNewerVersionError, match=r"9999.*pip install --upgrade kappascout"):
        Store.open(store_url)
    with pytest.raises(StoreFromNewerVersionError):
        Store.upgrade(store_url)


def test_older_store_names_the_command(store, store_url):
    set_version(store_url, "0000")
    with pytest.raises(StoreOutdatedError, match=f"0000.*{SCHEMA_VERSION}.*kappascout db upgrade"):
        Store.open(store_url)
    with pytest.raises(StoreOutdatedError):
        Store.open(store_url, create=True)


def test_upgrading_a_current_store_changes_nothing(store, store_url, pool):
    assert Store.upgrade(store_url) == (SCHEMA_VERSION, SCHEMA_VERSION)
    assert store.counts()["materials"] == 10


def test_missing_store(tmp_path):
    for attempt in (Store.open, Store.upgrade):
        with pytest.raises(StoreNotFoundError, match="kappascout init"):
            attempt(tmp_path / "store.sqlite")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StoreNotWritableError, match="does not exist"):
        Store.open(tmp_path / "nowhere" / "store.sqlite", create=True)
    with pytest.raises(NotAStoreError, match="folder"):
        Store.open(tmp_path)


def test_empty_file_is_no_store_until_created(tmp_path):
    path = tmp_path / "store.sqlite"
    path.touch()
    for attempt in (Store.open, Store.upgrade):
        with pytest.raises(StoreNotFoundError, match="empty"):
            attempt(path)
    with Store.open(path, create=True) as store:
        assert store.campaigns() == []


def test_a_text_file_is_not_a_store(tmp_path):
    path = tmp_path / "store.sqlite"
    path.write_text("not a database at all\n" * 100)
    before = path.read_bytes()
    for create in (False, True):
        with pytest.raises(NotAStoreError, match=r"store\.sqlite"):
            Store.open(path, create=create)
    assert path.read_bytes() == before


def test_someone_elses_database_is_left_alone(tmp_path):
    path = tmp_path / "ase.db"
    with sqlite3.connect(path) as theirs:
        theirs.execute("CREATE TABLE systems (id INTEGER)")
    theirs.close()
    for create in (False, True):
        with pytest.raises(NotAStoreError, match="systems"):
            Store.open(path, create=create)


def test_a_cut_store_is_damaged(tmp_path):
    path = tmp_path / "store.sqlite"
    Store.open(path, create=True).close()
    path.write_bytes(path.read_bytes()[:6000])
    with pytest.raises(NotAStoreError, match="damaged"), Store.open(path) as store:
        store.campaigns()


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs POSIX users")
def test_without_permission_reading_works_and_writing_says_so():
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        path = folder / "store.sqlite"
        with Store.open(path, create=True) as store:
            store.create_campaign(CampaignRecord("c", "min", "kappa_300K"))
        path.chmod(0o444)
        folder.chmod(0o555)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            with Store.open(path) as store:
                assert store.campaign().name == "c"
                with pytest.raises(StoreNotWritableError, match="permissions"):
                    store.set_campaign_state(CampaignState.STOPPED)
            with pytest.raises(StoreNotWritableError, match="permissions"):
                Store.open(folder / "new.sqlite", create=True)
        finally:
            os.seteuid(user)
            folder.chmod(0o755)


@pytest.mark.parametrize("url", ["nosuchdb://host/x", "://"])
def test_bad_urls_say_how_to_write_one(url):
    with pytest.raises(StoreUnreachableError, match=r"postgresql\+psycopg://"):
        Store.open(url)


def test_passwords_are_never_shown():
    pytest.importorskip("psycopg", reason="PostgreSQL driver not installed (extra `postgres`)")
    with pytest.raises(StoreUnreachableError, match="postgresql") as caught:
        Store.open("postgresql+psycopg://me:secret@127.0.0.1:1/none?sslpassword=hidden", timeout=0.2)
    assert "me:***@127.0.0.1" in str(caught.value)
    assert not {"secret", "hidden"} & set(re.findall(r"\w+", str(caught.value)))


def test_memory_is_no_store():
    with pytest.raises(NotAStoreError, match="memory"):
        Store.open("sqlite://", create=True)
