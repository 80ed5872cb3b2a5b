"""Born charges that a user has, by material: a folder of phonopy ``BORN`` files, ``[labeler] born``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from campaigns.exceptions import ConfigurationError

if TYPE_CHECKING:
    from engine.materials.crystal import Crystal

_CELLS = ("POSCAR-unitcell", "POSCAR")


class BornFolder:
    """``ID.BORN`` with ``ID.POSCAR``, or ``ID/BORN`` with ``ID/POSCAR-unitcell`` or ``ID/POSCAR``, for some materials.

    The POSCAR is the cell that the charges were calculated for; its atoms and axes may differ from the material's.
    """

    def __init__(self, folder: Path):
        """``folder`` is searched once.

        Raises
        ------
        ConfigurationError
            If it is no folder, or has no such file.
        """
        if not folder.is_dir():
            raise ConfigurationError(f"[labeler] born: {folder} is no folder; give one with files ID.BORN or ID/BORN")
        self._files: dict[str, list[Path]] = {}
        for path in sorted(folder.glob("*.BORN")):
            self._files.setdefault(path.name.removesuffix(".BORN"), []).append(path)
        for path in sorted(folder.glob("*/BORN")):
            self._files.setdefault(path.parent.name, []).append(path)
        if not self._files:
            raise ConfigurationError(f"[labeler] born: {folder} has no file ID.BORN or ID/BORN; ID is a material's id")

    def with_charges(self, crystal: Crystal, names: Iterable[str]) -> Crystal:
        """The crystal with its Born charges; as it is if there is no file of one of its names.

        Parameters
        ----------
        crystal
            Primitive cell of a material.
        names
            Its ids.

        Raises
        ------
        BornChargesError
            If there are several files, or the file cannot be used for this crystal.
        """
        from engine.exceptions import BornChargesError
        from engine.physics.born_charges import read_born

        found = [path for name in dict.fromkeys(names) for path in self._files.get(name, [])]
        if len(found) > 1:
            raise BornChargesError(
                f"there are several files of its Born charges, {', '.join(map(str, found))}; keep one"
            )
        return read_born(found[0], crystal, _cell_of(found[0])) if found else crystal


def _cell_of(path: Path) -> Path | None:
    beside = [path.with_name(name) for name in _CELLS] if path.name == "BORN" else [path.with_suffix(".POSCAR")]
    return next((cell for cell in beside if cell.is_file()), None)
