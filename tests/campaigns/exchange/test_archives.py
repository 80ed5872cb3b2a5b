"""Archives of results are read, and never leave their folder."""

from __future__ import annotations

import io
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from campaigns.exceptions import ExchangeError
from campaigns.exchange import archives
from tests.campaigns.exchange.conftest import mark_done, write_kappa
from tests.campaigns.helpers import done, refused


@pytest.mark.parametrize("format", ["zip", "tar", "gztar", "xztar"])
def test_an_archive_is_read_as_its_folder(exported: tuple[Path, Path], tmp_path: Path, format: str) -> None:
    pytest.importorskip("phono3py", reason="phono3py is not installed")
    directory, folder = exported
    write_kappa(folder, 3.0)
    mark_done(folder)
    (folder / "disp-00001").mkdir()
    (folder / "disp-00001" / "OUTCAR").write_text("large")
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), format, tmp_path, "out"))
    with archives.unpacked(packed) as unpacked:
        names = {p.name for p in unpacked.rglob("*") if p.is_file()}
        assert {"entry.json", "DONE", "INCAR", "POSCAR"} <= names
        assert "run.sh" not in names
        assert not list(unpacked.rglob("disp-*")), "what is not read is not unpacked"
    assert not unpacked.exists()
    report = done("label", "import", directory, packed, "--format", "json").json
    assert (report["added"], report["entries"][0]["state"]) == (1, "done")
    assert done("label", "import", directory, folder, "--format", "json").json["unchanged"] == 1


def tar_with(*members: tuple[str, str]) -> Callable[[Path], Path]:
    """Name and link target (or nothing) of each member."""

    def make(folder: Path) -> Path:
        path = folder / "evil.tar"
        with tarfile.open(path, "w") as archive:
            for name, target in members:
                info = tarfile.TarInfo(name)
                if target:
                    info.type, info.linkname = tarfile.SYMTYPE, target
                else:
                    info.size = 2
                archive.addfile(info, io.BytesIO(b"{}"))
        return path

    return make


def zip_with(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / "evil.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, "{}")
        return path

    return make


EVIL: dict[str, Callable[[Path], Path]] = {
    "tar up": tar_with(("../../entry.json", "")),
    "tar inner up": tar_with(("a/../../../entry.json", "")),
    "tar link": tar_with(("a", "/etc"), ("a/entry.json", "")),
    "tar link up": tar_with(("a", "../.."), ("a/entry.json", "")),
    "zip up": zip_with("../entry.json"),
    "zip backslash": zip_with("..\\entry.json"),
    "zip absolute": zip_with("/tmp/entry.json"),
    "zip drive": zip_with("C:/entry.json"),
}


@pytest.mark.parametrize("name", EVIL)
def test_members_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    inner = tmp_path / "in" / "ner"
    inner.mkdir(parents=True)
    path = EVIL[name](inner)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ExchangeError, match="absolute paths"), archives.unpacked(path):
        pass
    assert sorted(tmp_path.rglob("*")) == before


def test_an_absolute_name_of_a_tar_lands_inside(tmp_path: Path) -> None:
    """Python's data filter drops the leading slash."""
    with archives.unpacked(tar_with(("/entry.json", ""))(tmp_path)) as folder:
        assert (folder / "entry.json").read_text() == "{}"


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz", "x.tgz", "x.tar"])
def test_damaged_archives(exported: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    directory, _ = exported
    (tmp_path / name).write_bytes(b"\x1f\x8b" + b"no archive" * 100)
    assert f"{name} is damaged" in refused("label", "import", directory, tmp_path / name)


def test_more_than_fits_is_refused(
    exported: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MAX_BYTES", 100)
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "out")
    with pytest.raises(ExchangeError, match="GiB"), archives.unpacked(Path(packed)):
        pass
