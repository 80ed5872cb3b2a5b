"""A server that is away, comes back or refuses, and what a URL may hold."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import make_url

from db.connection import describe, to_url
from db.exceptions import StoreUnreachableError
from db.states import CampaignState
from db.store import Store
from tests.postgresql import Server, missing, server


@pytest.fixture(scope="module")
def own_server() -> Iterator[Server]:
    """Give a server that the tests may stop."""
    if reason := missing():
        pytest.skip(reason)
    with server() as running:
        yield running


def test_a_server_that_is_away_is_waited_for_and_then_said_so(own_server, make_campaign):
    with make_campaign(own_server.url) as store:
        own_server.stop()
        start = time.monotonic()
        for attempt in (
            lambda: Store.open(own_server.url, timeout=0.4),
            lambda: Store.upgrade(own_server.url, timeout=0.4),
        ):
            with pytest.raises(StoreUnreachableError, match="does not answer") as caught:
                attempt()
            assert "\n" not in str(caught.value)
        assert 0.8 <= time.monotonic() - start < 10

        timer = threading.Timer(0.3, own_server.start)
        timer.start()
        assert store.set_campaign_state(CampaignState.STOPPED).state is CampaignState.STOPPED
        timer.join()
        assert store.campaign().state is CampaignState.STOPPED


def test_a_server_that_dies_under_a_verb_keeps_nothing_of_it(own_server, make_campaign, make_material):
    with make_campaign(own_server.url, "second") as store:

        def add_and_die():
            with store.transaction():
                store.add_materials([make_material("m1")])
                own_server.stop()
                store.add_materials([make_material("m2")])

        with pytest.raises(StoreUnreachableError, match="nothing of this step was kept"):
            add_and_die()
        own_server.start()
        assert store.counts()["materials"] == 0
        assert store.add_materials([make_material("m1")]).added == ["m1"]


def test_a_server_that_refuses_is_not_waited_for(postgresql):
    url = make_url(postgresql).set(database="nowhere").render_as_string()
    start = time.monotonic()
    with pytest.raises(StoreUnreachableError, match='database "nowhere" does not exist'):
        Store.open(url, timeout=30)
    assert time.monotonic() - start < 10


def test_variables_of_the_environment_fill_a_url(monkeypatch):
    monkeypatch.setenv("STORE_HOST", "db.example.org")
    monkeypatch.setenv("STORE_PASSWORD", "p@ss/w:rd")
    url = to_url("postgresql+psycopg://me:${STORE_PASSWORD}@${STORE_HOST}:5433/${STORE_HOST}?sslrootcert=${STORE_HOST}")
    assert (url.password, url.host, url.port) == ("p@ss/w:rd", "db.example.org", 5433)
    assert url.query == {"sslrootcert": "db.example.org"}
    assert "p@ss" not in describe(url)
    with pytest.raises(StoreUnreachableError, match="variable STORE_USER, which is not set"):
        to_url("postgresql+psycopg://${STORE_USER}@host/db")


def test_a_password_from_the_environment_reaches_the_driver(monkeypatch, postgresql):
    """The driver's own variables work as they do for psql."""
    monkeypatch.setenv("PGPASSWORD", "not needed with trust")
    monkeypatch.setenv("PGHOST", make_url(postgresql).query["host"])
    with pytest.raises(StoreUnreachableError, match="no_such_database"):
        Store.open("postgresql://kappascout@/no_such_database", timeout=1)
