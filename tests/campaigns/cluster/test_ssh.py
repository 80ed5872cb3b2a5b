"""A cluster that is reached by ssh: a real sshd on a port of this machine, with a key of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from campaigns.cluster.hosts import SshMachine
from campaigns.exceptions import ClusterError
from tests.campaigns.cluster.conftest import DIAMOND, MakeCampaign
from tests.campaigns.helpers import done, queue, refused
from tests.slurm import Slurm

pytest.importorskip("phono3py", reason="phono3py is not installed")
SSHD = shutil.which("sshd", path="/usr/sbin:/usr/bin")
pytestmark = pytest.mark.skipif(
    SSHD is None or os.geteuid() != 0, reason="no sshd (Debian package openssh-server), or not root"
)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: tuple[Slurm, dict[str, str]]) -> Iterator[str]:
    """Give the name of a machine that this user reaches by a key."""
    folder = tmp_path / "ssh"
    folder.mkdir(mode=0o700)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    shutil.copy(folder / "user.pub", folder / "authorized")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = " ".join(f'{name}="{value}"' for name, value in environment_there(site[1]).items())
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
        f"PidFile {folder}/pid\nStrictModes no\nPermitRootLogin yes\nPasswordAuthentication no\nUsePAM no\n"
        f"SetEnv {environment}\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    daemon = subprocess.Popen([SSHD or "", "-D", "-f", folder / "sshd_config", "-E", folder / "log"])
    # ssh takes its configuration from the home that the password file names, unless it is told another
    wrapper = folder / "bin" / "ssh"
    wrapper.parent.mkdir()
    wrapper.write_text(
        f"#!/bin/sh\nexec {shutil.which('ssh')} -F none -p {port} -i {folder}/user -o StrictHostKeyChecking=no "
        f'-o UserKnownHostsFile={folder}/known "$@"\n'
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    end = time.monotonic() + 20
    while subprocess.run([wrapper, "127.0.0.1", "true"], capture_output=True, check=False).returncode:
        assert time.monotonic() < end, (folder / "log").read_text()
        time.sleep(0.2)
    yield "127.0.0.1"
    daemon.terminate()
    daemon.wait()


def environment_there(environment: dict[str, str]) -> dict[str, str]:
    names = ("PATH", "PYTHONPATH", "POTCAR_DIR", "SLURM_CONF", "OMP_NUM_THREADS", "RAYON_NUM_THREADS")
    return {name: environment[name] for name in names}


def test_submitted_there_collected_here(
    make_campaign: MakeCampaign, scheduler: Slurm, host: str, tmp_path: Path
) -> None:
    there = tmp_path / "there"
    directory = make_campaign(DIAMOND, cluster={"host": host, "folder": str(there)})
    done("run", directory, "--quiet")
    done("queue", "approve", directory)
    done("submit", directory)
    (folder,) = there.glob("001-*")
    assert (folder / "run.sh").exists()
    done("watch", directory, "--every", 0.5)
    assert [entry["state"] for entry in queue(directory)] == ["done"]
    here = directory / "calculations" / folder.name
    assert list(here.glob("kappa-m*.hdf5"))
    assert not list(here.glob("disp-*/OUTCAR")), "forces stay there"


def test_a_machine_that_wants_a_password(make_campaign: MakeCampaign, host: str, tmp_path: Path) -> None:
    (tmp_path / "ssh" / "authorized").write_text("")
    with pytest.raises(ClusterError, match="without a question"):
        SshMachine(host).run("true", "/")
    directory = make_campaign(DIAMOND, cluster={"host": host, "folder": "/tmp/nowhere"})
    done("run", directory, "--quiet")
    done("queue", "approve", directory)
    assert "Permission denied" in refused("submit", directory, "--quiet")


def test_a_folder_there_is_absolute(make_campaign: MakeCampaign) -> None:
    directory = make_campaign(DIAMOND, cluster={"host": "login.site.org"})
    done("run", directory, "--quiet")
    done("queue", "approve", directory)
    assert "absolute path" in refused("submit", directory, "--quiet")
