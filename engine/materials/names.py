"""Names of files: which hold no crystal, and the ids that files give to crystals without one.

An id is the file's name without its suffix, or its folder's for generic names (``mp-1/relax/CONTCAR`` is
``mp-1-relax``). Files of one name get as much of their paths as distinguishes them, in any order.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath

COMPRESSIONS = (".gz", ".bz2", ".xz")
ARCHIVES = (
    ".tar.gz", ".tar.bz2", ".tar.xz", ".tgz", ".tbz2", ".tbz", ".txz", ".tar", ".zip",
)  # fmt: skip
VASP_NAMES = ("poscar", "contcar")
PHONOPY = re.compile(r"pho(nopy|no3py)\w*\.ya?ml")
"""Files of phonopy and phono3py with a crystal: ``phonopy.yaml``, ``phono3py_disp.yaml``, ``phonopy_params.yaml``."""

_SUFFIXES = (
    ".mcif", ".cif", ".vasp", ".poscar", ".extxyz", ".xyz", ".jsonl", ".ndjson", ".json", ".parquet", ".pq", ".csv",
    ".db", ".aselmdb", ".lmdb", ".mdb",
)  # fmt: skip
_LOCKS = (".aselmdb-lock", ".lmdb-lock", "lock.mdb")  # lock files of LMDB
_NOT_CRYSTALS = re.compile(
    r"(readme|licen[cs]e|copying|citation|authors|changelog|manifest)([._-].*)?|thumbs\.db|desktop\.ini|"
    r"\.ds_store|\._.*|\.git\w*|.*\.(md5|sha\d+)|(md5|sha\d+)sums?(\.txt)?"
)
_NOT_CRYSTALS_FOLDERS = {"__MACOSX", ".git", ".ipynb_checkpoints", "__pycache__"}
_SAYS_NOTHING = re.compile(
    r"(\d{1,3}|(\d*[_.-]?)(relax(ed|ation)?|static|n?scf|opt(imi[sz]ed|imi[sz]ation)?|geo(m(etry)?)?_?opt|inputs?|"
    r"outputs?|calc(s|ulations?)?|runs?|vasp|dft|jobs?|step|work|final|start|initial|phon(on|opy|o3py)s?|structures?)"
    r"([_.-]?\d*))",
    re.IGNORECASE,
)


def bare_name(path: PurePosixPath) -> str:
    """The name in lower case, without its compression."""
    name = path.name.lower()
    return next((name.removesuffix(end) for end in COMPRESSIONS if name.endswith(end)), name)


def is_lock(path: PurePosixPath) -> bool:
    """Whether a file is the lock of a database."""
    return path.name.lower().endswith(_LOCKS)


def is_no_crystal(path: PurePosixPath) -> bool:
    """Whether a file belongs to a folder or archive and not to the crystals in it: readmes, licences, system files."""
    name = path.name.lower()
    junk = name.startswith("._") or any(part in _NOT_CRYSTALS_FOLDERS for part in path.parts[:-1])
    return junk or (_NOT_CRYSTALS.fullmatch(name) is not None and not bare_name(path).endswith(_SUFFIXES[:-4]))


def stem(path: PurePosixPath) -> str:
    """The id that a file alone, with no other of its name, gives."""
    words, start = _words(path)
    return "-".join(words[start:])


def nth(name: str, n: int) -> str:
    """The id of a file's n-th crystal, from 1."""
    return name if n == 1 else f"{name}-{n}"


def place(path: PurePosixPath) -> PurePosixPath:
    """Folder that represents an archive in the paths of its members."""
    name = path.name.lower()
    suffix = next((end for end in ARCHIVES if name.endswith(end)), "")
    return path.with_name(path.name[: len(name) - len(suffix)] or path.name)


class FileIds:
    """Ids of files that are read together.

    Parameters
    ----------
    listing
        Every file's path, with archives as folders; read a second time where two share an id. Memory holds a number
        for each, and the paths of those that share one.
    """

    def __init__(self, listing: Callable[[], Iterable[PurePosixPath]]):
        once: set[int] = set()
        shared: set[int] = set()
        for path in listing():
            key = hash(stem(path))
            (shared if key in once else once).add(key)
        self._ids: dict[PurePosixPath, str] = {}
        if not shared:
            return
        groups: dict[str, set[PurePosixPath]] = {}
        for path in listing():
            if hash(name := stem(path)) in shared:
                groups.setdefault(name, set()).add(path)
        given: set[str] = set()
        for name in sorted(groups):
            if len(groups[name]) > 1:
                found = _told_apart(sorted(groups[name]), lambda word: hash(word) in once or word in given)
                given.update(found.values())
                self._ids |= found

    def __getitem__(self, path: PurePosixPath) -> str:
        """The id of a file."""
        return self._ids.get(path) or stem(path)


def _words(path: PurePosixPath, whole_name: bool = False) -> tuple[list[str], int]:
    """Parts of a path, and the start of its shortest end that names a crystal."""
    name = path.name
    if end := next((end for end in COMPRESSIONS if name.lower().endswith(end)), ""):
        name = name[: -len(end)]
    words = [part for part in path.parts[:-1] if part not in ("/", ".", "..")]
    lower = name.lower()
    if (lower in VASP_NAMES or PHONOPY.fullmatch(lower)) and words:
        last = len(words) - 1
        while last > 0 and _SAYS_NOTHING.fullmatch(words[last]):
            last -= 1
        return words + ([path.name] if whole_name else []), last
    suffix = next((end for end in _SUFFIXES if lower.endswith(end)), "")
    words.append(path.name if whole_name else name[: len(name) - len(suffix)] or path.name)
    return words, len(words) - 1


def _told_apart(paths: Sequence[PurePosixPath], is_taken: Callable[[str], bool]) -> dict[PurePosixPath, str]:
    """Ids of files that share one: by the ends of their paths, and within a folder by the whole names."""
    in_folder = Counter(tuple(_words(path)[0]) for path in paths)
    ends = {path: _words(path, whole_name=in_folder[tuple(_words(path)[0])] > 1) for path in paths}
    found: dict[PurePosixPath, str] = {}
    # whole names distinguish files of one folder, but not the folder
    for more in range(int(len(in_folder) > 1), max(start for _, start in ends.values()) + 1):
        left = [path for path in paths if path not in found]
        ids = {path: "-".join(ends[path][0][max(0, ends[path][1] - more) :]) for path in left}
        counts, before = Counter(ids.values()), set(found.values())
        found |= {p: id_ for p, id_ in ids.items() if counts[id_] == 1 and not is_taken(id_) and id_ not in before}
    for path in paths:
        if path not in found:
            digest = hashlib.blake2b(path.as_posix().encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()
            found[path] = f"{stem(path)}-{digest}"
    return found
