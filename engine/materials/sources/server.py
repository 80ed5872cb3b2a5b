"""HTTP requests with a minimum interval, and with retries after temporary faults.

Pauses double from one attempt to the next; ``Retry-After`` (RFC 9110, 10.2.3), in seconds or as a date, overrides.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter

from engine.exceptions import RefusedRequestError, SourceError
from engine.materials.sources.source import Say

_Timeout = float | tuple[float | None, float | None] | None
_Certificate = str | tuple[str, str] | None


@dataclass(frozen=True)
class Patience:
    """Timing of requests."""

    spacing: float = 0.5
    """Seconds from one request to the next; none of the services publishes a limit below two a second."""
    attempts: int = 6
    pause: float = 1.0
    """Seconds before the second attempt; each further pause is twice as long."""
    longest: float = 120.0
    """Longest pause in seconds; a longer one means that the user's quota is used up, and ends the reading."""
    timeout: float = 60.0
    """Timeout in seconds without data."""


PATIENCE = Patience()
GO_ON = "what was read is kept: ingest again later to continue there"


class Server:
    """One server with a name for messages; ``session`` is for libraries that make their own requests."""

    def __init__(self, name: str, say: Say):
        self.name = name
        self._adapter = _PatientAdapter(name, PATIENCE, say)
        self.session = requests.Session()
        self.session.headers["user-agent"] = "kappascout"
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, self._adapter)

    def get(self, url: str) -> Any:
        """Fetch a JSON document.

        Raises
        ------
        RefusedRequestError
            The server refuses this request (status 400 to 499, except 429).
        SourceError
            It cannot be reached, requests too long a pause, or its answers are broken, also after retries.
        """
        self.session.get(url)
        return self.document

    def close(self) -> None:
        """Close the connections; they open again when they are needed."""
        self.session.close()

    @property
    def document(self) -> Any:
        """The last JSON document received."""
        return self._adapter.document


class _PatientAdapter(HTTPAdapter):
    """Transport that waits and retries; responses are complete, and JSON with status 200."""

    def __init__(self, name: str, patience: Patience, say: Say):
        super().__init__()
        self.document: Any = None
        self._name, self._patience, self._say = name, patience, say
        self._last = -float("inf")

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: _Timeout = None,
        verify: bool | str = True,
        cert: _Certificate = None,
        proxies: dict[str, str] | None = None,
    ) -> requests.Response:
        """Send until it succeeds, is refused, or attempts are used up."""
        pause = self._patience.pause
        for attempt in range(1, self._patience.attempts + 1):
            self._keep_apart()
            response, fault = self._attempt(request, timeout, verify, cert, proxies)
            if response is not None and not fault:
                return response
            wait = max(_retry_after(response) or 0.0, pause)
            if attempt == self._patience.attempts or wait > self._patience.longest:
                raise SourceError(self._last_words(request, response, fault, wait, attempt))
            self._say(f"{self._name}: {fault}; retrying in {wait:.0f} s ({attempt} of {self._patience.attempts})")
            time.sleep(wait)
            pause *= 2
        raise AssertionError("unreachable")

    def _attempt(
        self,
        request: requests.PreparedRequest,
        timeout: _Timeout,
        verify: bool | str,
        cert: _Certificate,
        proxies: dict[str, str] | None,
    ) -> tuple[requests.Response | None, str]:
        """Send once; returns the response if there is one, and the temporary fault if any."""
        try:
            response = super().send(request, False, timeout or self._patience.timeout, verify, cert, proxies)
            content = response.content
        except requests.exceptions.Timeout:
            return None, "no answer in time"
        except requests.exceptions.SSLError as error:
            raise SourceError(f"{self._name} has no valid certificate ({_reason(error)}); check the address") from error
        except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError):
            return None, "the answer was truncated"
        except requests.exceptions.ConnectionError as error:
            return None, f"no connection ({_reason(error)})"
        if response.status_code == 429 or response.status_code >= 500:
            return response, f"answered {response.status_code} {response.reason}"
        if response.status_code >= 400:
            raise RefusedRequestError(response.status_code, f"{self._name} refuses the request: {_detail(response)}")
        if response.status_code == 200:
            try:
                self.document = json.loads(content)
            except ValueError as error:
                return response, f"the answer is not JSON ({error})"
            response.encoding = "utf-8"
        return response, ""

    def _keep_apart(self) -> None:
        wait = self._last + self._patience.spacing - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        self._last = time.monotonic()

    def _last_words(
        self, request: requests.PreparedRequest, response: requests.Response | None, fault: str, wait: float, tried: int
    ) -> str:
        if response is not None and response.status_code == 429:
            return (
                f"{self._name} takes no more requests from you for now (429, with a pause of {wait:.0f} s, tried "
                f"{tried} times); {GO_ON}"
            )
        host = urlsplit(str(request.url)).netloc
        return f"{self._name} at {host}: {fault}, {tried} times; check the network and the address; {GO_ON}"


def _retry_after(response: requests.Response | None) -> float | None:
    """Pause in seconds requested by the server; None without one, or if it cannot be read."""
    words = "" if response is None else response.headers.get("Retry-After", "").strip()
    if words.isdigit():
        return float(words)
    try:
        return (parsedate_to_datetime(words) - datetime.now(UTC)).total_seconds() if words else None
    except (TypeError, ValueError):
        return None


def _reason(error: Exception) -> str:
    """Innermost cause, whose message has no addresses of objects."""
    cause: BaseException = error
    while (inner := getattr(cause, "reason", None) or cause.__cause__ or cause.__context__) is not None:
        if not isinstance(inner, BaseException):
            break
        cause = inner
    return str(cause).rpartition(": ")[2][:200] or type(cause).__name__


def _detail(response: requests.Response) -> str:
    """Error message of the server: JSON:API errors, FastAPI's detail, or the first line of its text."""
    status = f"{response.status_code} {response.reason}"
    try:
        document = json.loads(response.content)
    except ValueError:
        document = response.content[:200].decode("utf-8", errors="replace").strip().partition("\n")[0]
    if isinstance(document, dict):
        errors = document.get("errors")
        if isinstance(errors, list) and errors and isinstance(errors[0], dict):
            document = errors[0].get("detail") or errors[0].get("title")
        else:
            document = next((document[k] for k in ("detail", "message", "error") if document.get(k)), "")
    words = document if isinstance(document, str) else json.dumps(document)
    return f"{status}, {words[:300]}" if words and not words.startswith("<") else status
