"""A campaign goes into one file and comes out whole, or not at all."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from campaigns import archive as module
from campaigns.archive import create_archive, extract_archive, verify_archive
from campaigns.archive_file import COMPRESSIONS, MANIFEST
from campaigns.campaign import Campaign
from campaigns.exceptions import ArchiveError
from campaigns.files import write_whole
from campaigns.round.opening import open_round
from campaigns.round.steps import finish_round
from db.exceptions import InvalidRecordError, StoreError
from db.store import Store
from tests.campaigns.helpers import configure, done, kappascout, refused

Members = dict[str, bytes]


@pytest.fixture(scope="module")
def made(_campaign: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a campaign with a queued round, a labeler's file beside it and one outside."""
    import shutil

    directory = Path(shutil.copytree(_campaign, tmp_path_factory.mktemp("archived") / "c"))
    lines = write_whole(directory / "answers" / "ü.jsonl", "")
    configure(directory, {"labeler": {"kind": "dft", "source": str(lines.relative_to(directory))}})
    configure(directory, {"campaign": {"hit": 1.0}})
    with Campaign.open(directory) as campaign:
        finish_round(campaign.workspace, open_round(campaign.workspace, 4), lambda text: None)
    write_whole(directory / "artifacts" / "models" / ".half-written", "x")
    return directory


@pytest.fixture(scope="module")
def archive(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give its archive."""
    path = tmp_path_factory.mktemp("archive") / "c.tar.zst"
    with Campaign.open(made) as campaign:
        create_archive(campaign, path)
    return path


def everything(directory: Path) -> tuple[Any, ...]:
    """Read what a campaign holds, row by row and file by file."""
    with Campaign.open(directory) as campaign:
        rows = {name: [json.dumps(row, sort_keys=True) for row in found] for name, found in campaign.store.dump()}
    files = {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted((directory / "artifacts").rglob("*"))
        if path.is_file() and not path.name.startswith(".") and path.parts[len(directory.parts) + 1] not in CACHED
    }
    return rows, files


CACHED = {"graphs", "embeddings"}


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_all_comes_back(made: Path, tmp_path: Path, suffix: str) -> None:
    path, again = tmp_path / f"c{suffix}", tmp_path / "new" / "again"
    report = done("archive", "create", made, "--to", path, "--format", "json").json
    assert report["campaign"] == "c"
    assert (report["material"], report["label"], report["queue_entry"]) == (60, 14, 4)
    assert done("archive", "verify", path, "--format", "json").json == report
    assert done("archive", "extract", path, again, "--format", "json").json == report
    assert everything(again) == everything(made)
    assert (again / "answers" / "ü.jsonl").is_file()
    assert not list(again.rglob(".half-written"))
    assert sorted(p.name for p in again.iterdir()) == ["answers", "artifacts", "campaign.toml", "store.sqlite"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, "new"]
    assert {row["state"] for row in done("models", "verify", again, "--format", "json").json} == {"intact"}
    assert done("status", again, "--format", "json").json == done("status", made, "--format", "json").json


def test_with_its_caches(made: Path, tmp_path: Path) -> None:
    done("archive", "create", made, "--to", tmp_path / "c.tar.gz", "--caches", "--quiet")
    done("archive", "extract", tmp_path / "c.tar.gz", tmp_path / "c")
    for name in CACHED:
        own = sorted(p.relative_to(made) for p in (made / "artifacts" / name).rglob("*.*") if p.name[0] != ".")
        assert own
        assert all((tmp_path / "c" / path).is_file() for path in own)


def test_to_postgresql_and_back(made: Path, archive: Path, tmp_path: Path, postgresql_url: str) -> None:
    extract_archive(archive, tmp_path / "on-server", postgresql_url)
    assert everything(tmp_path / "on-server") == everything(made)
    assert not (tmp_path / "on-server" / "store.sqlite").exists()
    with Campaign.open(tmp_path / "on-server") as campaign:
        assert campaign.configuration.store.url == postgresql_url
        create_archive(campaign, tmp_path / "back.tar.gz")
    with pytest.raises(InvalidRecordError, match="'c'"):
        extract_archive(archive, tmp_path / "second", postgresql_url)
    extract_archive(tmp_path / "back.tar.gz", tmp_path / "back")
    assert everything(tmp_path / "back") == everything(made)
    assert f'# url = "{postgresql_url}"' in (tmp_path / "back" / "campaign.toml").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["back", "back.tar.gz", "on-server"]


def test_what_lies_outside_is_said(made: Path, pool_file: Path, tmp_path: Path) -> None:
    before = (made / "campaign.toml").read_text()
    configure(made, {"labeler": {"source": str(pool_file)}})
    try:
        outcome = done("archive", "create", made, "--to", tmp_path / "c.tar.gz")
    finally:
        write_whole(made / "campaign.toml", before)
    assert f"left out, because it lies outside the campaign's directory: {pool_file}" in outcome.err


def test_a_directory_in_use_and_a_name_that_says_nothing(made: Path, archive: Path, tmp_path: Path) -> None:
    assert "exists and is not empty" in refused("archive", "extract", archive, made)
    assert "name it .tar.zst or .tar.gz" in refused("archive", "create", made, "--to", tmp_path / "c.zip")
    assert "No such file" in refused("archive", "verify", tmp_path / "nothing.tar.gz")
    assert kappascout("archive", "extract", archive, tmp_path / "x", "--store", "postgresql://me:pw@h/d").code == 1
    with Campaign.open(made) as campaign, campaign.locked():
        assert "another process works on" in refused("archive", "create", made, "--to", tmp_path / "c.tar.gz")
    (tmp_path / "empty").mkdir()
    done("archive", "extract", archive, tmp_path / "empty")
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]


def test_a_killed_or_failed_writer_leaves_no_archive(made: Path, tmp_path: Path, monkeypatch: Any) -> None:
    with Campaign.open(made) as campaign, monkeypatch.context() as patch:
        patch.setattr(module, "version", lambda name: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            create_archive(campaign, tmp_path / "c.tar.gz")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_extraction_leaves_nothing(archive: Path, tmp_path: Path, monkeypatch: Any) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Store, "open", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            extract_archive(archive, tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


# -- archives that must not be trusted ---------------------------------------------------------------------------------


def members(archive: Path) -> Members:
    """Read an archive apart."""
    with pa.input_stream(archive, compression="zstd") as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def pack(path: Path, files: Members, *more: tarfile.TarInfo) -> Path:
    """Write an archive by hand."""
    with tarfile.open(path, "w:gz") as tar:
        for entry in more:
            tar.addfile(entry)
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def edited(members: Members, **changes: Any) -> bytes:
    """Change a manifest."""
    return json.dumps(json.loads(members[MANIFEST]) | changes).encode()


def one_bit(files: Members) -> Members:
    name = next(name for name in files if name.endswith(".safetensors"))
    return files | {name: files[name][:-1] + bytes([files[name][-1] ^ 1])}


def beside(name: str) -> Callable[[Members], Members]:
    return lambda files: {name: b"x", **files}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda files: {k: v for k, v in files.items() if k != MANIFEST}, "ends without a manifest"),
        (lambda files: {MANIFEST: files[MANIFEST], **files}, "follows the manifest"),
        (lambda files: files | {"more": b""}, "'more' follows the manifest"),
        (one_bit, "1 of its files are missing, changed or not in its manifest .*safetensors"),
        (lambda files: {k: v for k, v in files.items() if k != "store/label.jsonl"}, "store/label.jsonl"),
        (lambda files: {k: v for k, v in files.items() if k != "campaign.toml"}, "campaign.toml"),
        (beside("artifacts/extra"), "not in its manifest .artifacts/extra"),
        (beside("../escaped"), "'../escaped'"),
        (beside("artifacts/../../escaped"), "'artifacts/../../escaped'"),
        (beside("/tmp/escaped"), "'/tmp/escaped'"),
        (beside("artifacts//double"), "'artifacts//double'"),
        (beside("..\\escaped"), "not a plain file"),
        (lambda files: files | {MANIFEST: b"{"}, "its manifest cannot be read"),
        (lambda files: files | {MANIFEST: b"[]"}, "its manifest cannot be read"),
        (lambda files: files | {MANIFEST: edited(files, files={})}, "files are missing, changed or not"),
        (lambda files: files | {MANIFEST: edited(files, schema_version="9999")}, "upgrade the program"),
        (lambda files: files | {MANIFEST: edited(files, format=99)}, "upgrade the program"),
    ],
)
def test_a_changed_archive_is_refused(
    archive: Path, tmp_path: Path, spoil: Callable[[Members], Members], words: str
) -> None:
    path = pack(tmp_path / "bad.tar.gz", spoil(members(archive)))
    with pytest.raises(ArchiveError, match=words):
        verify_archive(path)
    with pytest.raises(ArchiveError, match=words):
        extract_archive(path, tmp_path / "c")
    assert [p.name for p in tmp_path.iterdir()] == ["bad.tar.gz"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_only_plain_files_are_taken(archive: Path, tmp_path: Path, kind: bytes) -> None:
    entry = tarfile.TarInfo("artifacts/link")
    entry.type, entry.linkname = kind, "/etc/passwd"
    path = pack(tmp_path / "bad.tar.gz", members(archive), entry)
    with pytest.raises(ArchiveError, match="'artifacts/link'"):
        extract_archive(path, tmp_path / "c")
    assert [p.name for p in tmp_path.iterdir()] == ["bad.tar.gz"]


def test_the_same_name_twice(archive: Path, tmp_path: Path) -> None:
    path = pack(tmp_path / "bad.tar.gz", members(archive), tarfile.TarInfo("campaign.toml"))
    with pytest.raises(ArchiveError, match=r"'campaign.toml' twice"):
        verify_archive(path)


@pytest.mark.parametrize("suffix", [".tar.zst", ".tar.gz"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.999])
def test_a_cut_archive_is_refused(archive: Path, tmp_path: Path, part: float, suffix: str) -> None:
    whole = archive
    if suffix == ".tar.gz":
        whole = pack(tmp_path / "whole.tar.gz", members(archive))
    data = whole.read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(ArchiveError, match="cannot be used"):
        verify_archive(cut)


def test_a_file_that_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "a.tar.zst").write_bytes(b"not an archive at all" * 100)
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(b"not a tar" * 1000))
    for path in tmp_path.iterdir():
        with pytest.raises(ArchiveError, match="another copy"):
            verify_archive(path)


def test_rows_that_do_not_fit_leave_nothing(archive: Path, tmp_path: Path) -> None:
    """Hashes that agree do not make a store."""
    import hashlib

    files = members(archive)
    name = "store/queue_change.jsonl"
    content = files[name].replace(b'"entry_pk":1,', b'"entry_pk":77,')
    assert content != files[name]
    entries = json.loads(files[MANIFEST])["files"]
    entries[name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    path = pack(tmp_path / "bad.tar.gz", files | {name: content, MANIFEST: edited(files, files=entries)})
    verify_archive(path)
    with pytest.raises(StoreError):
        extract_archive(path, tmp_path / "c")
    assert [p.name for p in tmp_path.iterdir()] == ["bad.tar.gz"]
