"""A private PostgreSQL server for the tests, on a socket in a temporary folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534
PACKAGED = Path("/usr/lib/postgresql")  # where Debian keeps the programs of each version
START_WITHIN = 60.0


class Server:
    """A cluster of databases that one test session, or one test, starts and stops."""

    def __init__(self, programs: Path, folder: Path):
        self.programs = programs
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        initdb = ["initdb", "--pgdata=data", "--username=kappascout", "--auth=trust", "--encoding=UTF8", "--no-sync"]
        self._program(*initdb, "--locale=C").wait()

    @property
    def url(self) -> str:
        """Of the database that is always there."""
        return f"postgresql+psycopg://kappascout@/postgres?host={self.folder}"

    def start(self) -> None:
        """Start serving; returns when it answers."""
        settings = {"listen_addresses": "", "unix_socket_directories": self.folder, "fsync": "off"}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self._process = self._program("postgres", "-D", "data", *options)
        deadline = time.monotonic() + START_WITHIN
        while self._program("pg_isready", "--quiet", f"--host={self.folder}").wait() != 0:
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, "the server has not started"
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop serving, whoever is connected; the data stay."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()
            self._process = None

    def _program(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}  # root is refused
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen([self.programs / name, *arguments], cwd=self.folder, stdout=log, stderr=log, **user)


def missing() -> str | None:
    """Say what this machine lacks to run a server, or None."""
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "the PostgreSQL driver is not installed (extra `postgres`)"
    return None if _programs() else "PostgreSQL is not installed (Debian package `postgresql`)"


@contextmanager
def server() -> Iterator[Server]:
    """Run a server for as long as the block lasts; its folder goes with it."""
    programs = _programs()
    assert programs is not None
    # not pytest's own folder: a socket's path is short, and an unprivileged user must reach it
    with tempfile.TemporaryDirectory(prefix="kappascout-pg-", dir="/tmp") as name:
        folder = Path(name)
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
        running = Server(programs, folder)
        running.start()
        try:
            yield running
        finally:
            running.stop()


def _programs() -> Path | None:
    """Folder of the newest PostgreSQL."""
    found = sorted(PACKAGED.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    initdb = str(found[-1]) if found else shutil.which("initdb")
    return Path(initdb).resolve().parent if initdb else None
