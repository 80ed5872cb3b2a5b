"""Faults that pass are waited for; those that do not end in one message."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from engine.exceptions import RefusedRequestError, SourceError
from engine.materials.sources import server
from engine.materials.sources.server import Patience, Server
from tests.engine.materials.sources.services import Reply, Service


@pytest.fixture
def service() -> Iterator[Service]:
    """Give a server that says hello."""
    with Service(lambda *_: Reply({"hello": "world"})).running() as running:
        yield running


def first(fault: Reply, times: int = 1):  # type: ignore[no-untyped-def]
    return lambda n, reply: fault if n <= times else reply


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Reply({}, 429, {"Retry-After": "0"}), "answered 429 Too Many Requests"),
        (Reply(b"down for maintenance", 503), "answered 503 Service Unavailable"),
        (Reply({"hello": "world"}, cut=True), "the answer was truncated"),
        (Reply(b'{"hello": "wor'), "the answer is not JSON"),
        (Reply(hang_up=True), "no connection"),
    ],
)
def test_a_fault_that_passes(service: Service, fault: Reply, words: str) -> None:
    """Once, the next answer counts, and the user is told; for good, one message."""
    said: list[str] = []
    service.fault = first(fault)
    assert Server("Example", said.append).get(service.url) == {"hello": "world"}
    assert len(service.requests) == 2
    assert said[0].startswith(f"Example: {words}")
    assert said[0].endswith("retrying in 0 s (1 of 3)")
    service.fault = first(fault, 99)
    with pytest.raises(SourceError, match="ingest again later"):
        Server("Example", said.append).get(service.url)
    assert len(service.requests) == 5


def test_retry_after_is_kept(service: Service) -> None:
    """In seconds and as a date; longer than we wait means that the quota is used up, and nothing more is asked."""
    service.fault = first(Reply({}, 429, {"Retry-After": "1"}))
    start = time.monotonic()
    Server("Example", print).get(service.url)
    assert time.monotonic() - start >= 1.0
    for wait in ("3600", format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)):
        service.requests.clear()
        service.fault = first(Reply({}, 429, {"Retry-After": wait}))
        with pytest.raises(SourceError, match=r"\(429, .* 3[56]\d* s"):
            Server("Example", print).get(service.url)
        assert len(service.requests) == 1


def test_requests_are_apart(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PATIENCE", Patience(spacing=0.1))
    asked = Server("Example", print)
    start = time.monotonic()
    for _ in range(4):
        asked.get(service.url)
    assert 0.3 <= time.monotonic() - start < 2.0


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            {"errors": [{"status": "400", "detail": "Unable to parse filter"}]},
            "400 Bad Request, Unable to parse filter",
        ),
        ({"detail": [{"msg": "bad", "loc": ["query", "x"]}]}, '400 Bad Request, [{"msg": "bad"'),
        ({"message": "no"}, "400 Bad Request, no"),
        (b"<html>oops</html>", "400 Bad Request"),
    ],
)
def test_a_refused_request_is_not_repeated(service: Service, body: object, words: str) -> None:
    service.answer = lambda *_: Reply(body, 400)
    with pytest.raises(RefusedRequestError) as refused:
        Server("Example", print).get(service.url)
    assert str(refused.value).startswith(f"Example refuses the request: {words}")
    assert refused.value.status == 400
    assert len(service.requests) == 1


def test_a_host_that_is_not_there() -> None:
    with pytest.raises(SourceError, match=r"Example at 127\.0\.0\.1:9: .*refused.*3 times"):
        Server("Example", print).get("http://127.0.0.1:9/x")


def test_json_is_unicode_whatever_the_header_says(service: Service) -> None:
    service.answer = lambda *_: Reply(json.dumps({"name": "Zürich"}, ensure_ascii=False).encode(), 200)
    assert Server("Example", print).get(service.url) == {"name": "Zürich"}
