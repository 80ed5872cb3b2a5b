"""Scripts of an export: one that computes an entry, stage by stage, and one that submits all entries."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from campaigns.exceptions import ExchangeError
from campaigns.exchange.crashes import known_crashes
from campaigns.exchange.presets import choices_of
from campaigns.exchange.spin import Spin
from campaigns.exchange.supergroups import supergroups
from db.states import FailureKind, FailureReason

if TYPE_CHECKING:
    from jinja2 import Environment, Template

    from campaigns.configuration import DftSection
    from campaigns.exchange.manifest import EntrySettings, Matrix, Phonons
    from campaigns.exchange.pseudopotentials import Pseudopotential


def run_script(
    formula: str, spacegroup: int, settings: EntrySettings, dft: DftSection, potcars: Sequence[Pseudopotential]
) -> str:
    """Text of ``run.sh``; ``spacegroup`` is the number that phono3py finds."""
    phonons = settings.phonons
    cell = "POSCAR-relaxed" if settings.relax else "POSCAR"
    stages = ["relax"] if settings.relax else []
    stages += ["born"] if settings.born else []
    commands = {}
    if phonons:
        stages += ["displace", "forces", "kappa"]
        commands = {
            "displace_command": _displace(phonons, cell),
            "forces_command": _collect(phonons),
            "kappa_command": _kappa(phonons, [*map(str, phonons.mesh)]),
            # the primitive cell after a gain of symmetry, with a mesh of the same density
            "primitive_kappa_command": _kappa(phonons, [str(dft.mesh_length), "--pa", "auto"]),
        }
    return shipped_template("run.sh.j2").render(
        formula=formula,
        spacegroup=spacegroup,
        spacegroups=supergroups(spacegroup),
        relax=settings.relax,
        born=settings.born,
        phonons=phonons,
        cell=cell,
        stages=stages,
        potcars=potcars,
        potcar_release=choices_of(dft).potcar_release,
        tests_spin=settings.method is not None and settings.method.spin == Spin.TESTED,
        refuses_moments=settings.method is not None and settings.method.magnetism == "refuse",
        spin_stages=[path.partition("/")[0] for path in settings.inputs if path.endswith("/INCAR.nonmagnetic")],
        crashes=known_crashes(),
        machine_reasons=[reason.value for reason in FailureReason if reason.kind is FailureKind.MACHINE],
        vasp_command=_quoted_inside(dft.vasp_command),
        inputs=sorted({path.partition("/")[0] for path in settings.inputs}),
        **commands,
    )


def submit_script(name: str, folders: Sequence[str], list_name: str, dft: DftSection, directory: Path) -> str:
    """Text of the Slurm array script, from the user's template if there is one.

    ``list_name`` is the file that lists ``folders``, one a line.

    Raises
    ------
    ExchangeError
        If the template is missing or cannot be rendered.
    """
    from jinja2 import TemplateError

    path = directory / dft.slurm_template
    try:
        if dft.slurm_template:
            text = path.read_text(encoding="utf-8")
            if "entries.txt" in text:
                raise ExchangeError(
                    f"[dft] slurm_template = {dft.slurm_template!r} reads entries.txt, which further exports would "
                    "change under jobs that wait; write {{ list }} in its place"
                )
            template = _environment().from_string(text)
        else:
            template = shipped_template("slurm.sh.j2")
        return template.render(
            name=re.sub(r"[^\w.-]", "_", name),
            entries=list(folders),
            list=list_name,
            slurm=dft.slurm,
            setup=dft.setup,
        )
    except (OSError, UnicodeDecodeError, TemplateError) as error:
        raise ExchangeError(
            f"[dft] slurm_template = {dft.slurm_template!r}: {path} cannot be used ({error}); it may hold "
            "{{ name }}, {{ entries }}, {{ list }}, {{ slurm }} and {{ setup }}"
        ) from error


def _displace(phonons: Phonons, cell: str) -> str:
    words = ["phono3py-init", "-c", cell, "--pa", "P", "--dim", *_dim(phonons.supercell)]
    if phonons.fc2_supercell:
        words += ["--dim-fc2", *_dim(phonons.fc2_supercell)]
    words += ["--amplitude", str(phonons.amplitude)]
    if phonons.displacements == "random":
        words += ["--rd", str(phonons.snapshots), "--random-seed", str(phonons.seed)]
        words += ["--rd-fc2", str(phonons.fc2_snapshots)] if phonons.fc2_supercell else []
    else:
        words.append("-d")
        words += ["--cutoff-pair", str(phonons.pair_cutoff)] if phonons.pair_cutoff else []
    return shlex.join(words)


def _collect(phonons: Phonons) -> str:
    # unquoted, for the shell to expand
    fc2 = " --cf2 disp_fc2-[0-9]*/vasprun.xml" if phonons.fc2_supercell else ""
    return f"phono3py-init --cf3 disp-[0-9]*/vasprun.xml{fc2}"


def _kappa(phonons: Phonons, mesh: list[str]) -> str:
    words = ["phono3py", "--mesh", *mesh, "--br" if phonons.solver == "rta" else "--lbte"]
    words += ["--ts", *map(str, phonons.temperatures)]
    if phonons.displacements == "random":
        words += ["--symfc"]
        words += ["--fc-calc-opt", f"|cutoff = {phonons.pair_cutoff}"] if phonons.pair_cutoff else []
    return shlex.join(words + (["--isotope"] if phonons.isotope else []))


def _dim(matrix: Matrix) -> list[str]:
    return [str(number) for row in matrix for number in row]


def _quoted_inside(text: str) -> str:
    """Escape for the inside of double quotes, where shells expand variables and commands."""
    return re.sub(r'([\\"$`}])', r"\\\1", text)


def shipped_template(name: str) -> Template:
    """Template that ships with the program."""
    folder = resources.files("campaigns") / "templates"
    return _environment().from_string((folder / name).read_text(encoding="utf-8"))


def _environment() -> Environment:
    from jinja2 import Environment, StrictUndefined

    settings: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
    environment = Environment(undefined=StrictUndefined, **settings)
    environment.filters["quoted"] = shlex.quote
    return environment
