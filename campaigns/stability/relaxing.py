"""``kappascout relax``: the materials of a campaign relaxed with a potential, and what that says of their stability.

Results are kept under ``artifacts/stability``, in one folder for each potential and settings, with the relaxed
crystals: what is there is not calculated again. The store has the figures as properties, which ``[constraints]`` read,
with one that names potential and settings. No crystal, label or queue entry changes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from campaigns.exceptions import CampaignBusyError, CampaignError
from campaigns.files import write_whole
from campaigns.output import Count
from campaigns.stability.above_hull import add_energies_above_hull, is_relaxed_here, usable_references
from campaigns.stability.calculations import FAILURE, FIGURES, Calculations, Effort, Method
from campaigns.stability.names import HULL_WITH, LOWEST_FREQUENCY, LOWEST_WITH, PHONON_FAILURE, RELAXED_WITH
from campaigns.stability.properties import Properties, phonon_properties, relaxation_properties
from campaigns.stability.request import RelaxReport, RelaxRequest
from campaigns.stability.table import stability_rows
from db.records import Json, MaterialKey
from db.states import UNFINISHED
from engine.execution import cores
from engine.materials.crystal import Crystal, isotopes_of

if TYPE_CHECKING:
    from campaigns.stability.references import Reference
    from campaigns.workspace import Workspace
    from db.store import Store

Say = Callable[[str], None]
FOLDER = "stability"
LOCK = ".relax.lock"
IMAGINARY = -0.1
"""THz; a lowest frequency below this counts as imaginary, others may be rounding."""


def relax_materials(workspace: Workspace, request: RelaxRequest, say: Say = lambda _: None) -> RelaxReport:
    """Relax the materials of a campaign; what is known with the same potential and settings is not done again.

    Parameters
    ----------
    workspace
        An open campaign.
    request
        Potential, references, and what else to calculate.
    say
        Takes lines of progress.

    Raises
    ------
    CampaignError
        If there is nothing to relax, a file of references cannot be used, or another process relaxes already.
    PotentialError
        If the potential cannot be loaded, or is wrong on known compounds.
    """
    with _alone(workspace.directory):
        keys = _materials(workspace.store, request)
        references = usable_references(request, keys)
        relaxed, modes = open_calculations(workspace.artifacts / FOLDER, request)
        report = RelaxReport(len(keys))
        _relax_references(relaxed, [r for r in references if is_relaxed_here(r, request)], say)
        _relax(workspace.store, relaxed, keys, report, say)
        if request.phonons:
            _find_modes(workspace.store, relaxed, modes, keys, report, say)
        if request.references:
            add_energies_above_hull(workspace.store, request, relaxed, keys, references, report)
        report.core_seconds = relaxed.core_seconds + modes.core_seconds
        report.rows = stability_rows(workspace.store, keys)
        report.notes += _figures_of_others(workspace.store, keys, relaxed.method, modes.method)
    return report


def _figures_of_others(store: Store, keys: Sequence[MaterialKey], relaxing: Method, shaking: Method) -> list[str]:
    """A note for figures of another potential that stand beside those of this one."""
    made = store.property_values([RELAXED_WITH, HULL_WITH, LOWEST_WITH], [key.material_id for key in keys])
    wanted = {RELAXED_WITH: str(relaxing), HULL_WITH: str(relaxing), LOWEST_WITH: str(shaking)}
    words = {RELAXED_WITH: "relaxed energies", HULL_WITH: "energies above the hull", LOWEST_WITH: "lowest frequencies"}
    found = {name: sum(not str(with_).startswith(wanted[name]) for with_ in made[name].values()) for name in wanted}
    others = [f"{count} {words[name]}" for name, count in found.items() if count]
    if not others:
        return []
    return [
        f"{', '.join(others)} are still those of another potential or other settings; --references and --phonons "
        "calculate them again"
    ]


def open_calculations(folder: Path, request: RelaxRequest) -> tuple[Calculations, Calculations]:
    """Relaxations and phonons with the potential of a request, as far as they are in ``folder``."""
    from engine.physics.harmonic import HarmonicSettings
    from engine.physics.potentials import load_potential
    from engine.physics.relaxation import RelaxationSettings
    from engine.physics.stability import phonon_figures, relaxation_figures

    relaxation, harmonic = RelaxationSettings(), HarmonicSettings()
    potential = load_potential(request.potential)
    effort = Effort(request.workers or cores(), request.time_limit, request.retry)
    relaxing = Method.of(request.potential, potential, {"relaxation": asdict(relaxation)})
    shaking = Method.of(request.potential, potential, relaxing.settings | {"harmonic": asdict(harmonic)})
    home = folder / relaxing.sha256[:32]
    about = {"potential": relaxing.potential, "settings": shaking.settings}
    write_whole(home / "method.json", json.dumps(about, indent=1) + "\n")
    return (
        Calculations(home / "relaxed.jsonl.gz", relaxing, partial(relaxation_figures, settings=relaxation), effort),
        Calculations(
            home / f"phonons-{shaking.sha256[:16]}.jsonl.gz",
            shaking,
            partial(phonon_figures, settings=harmonic),
            effort,
        ),
    )


def _relax_references(relaxed: Calculations, wanted: Sequence[Reference], say: Say) -> None:
    crystals = ((r.content_hash, r.crystal) for r in wanted if r.crystal is not None)
    done = _Counted(say, "references relaxed", len(wanted), sum(relaxed.is_done(r.content_hash) for r in wanted))
    relaxed.run(crystals, lambda _: None, done.one_more)


def _relax(store: Store, relaxed: Calculations, keys: Sequence[MaterialKey], report: RelaxReport, say: Say) -> None:
    """Relax materials; their figures become properties as they come."""
    ids = {key.content_hash: key.material_id for key in keys}
    missing = [id_ for hash_, id_ in ids.items() if not relaxed.is_done(hash_)]
    report.before = len(keys) - len(missing)
    stored = _Published(store, relaxed, ids, relaxation_properties)
    stored.what_is_there()
    done = _Counted(say, "materials relaxed", len(keys), report.before)
    crystals = ((hash_, Crystal.from_dict(structure)) for hash_, structure in store.structures(missing))
    relaxed.run(crystals, stored, done.one_more)
    report.failures = _reasons(relaxed, ids)
    report.relaxed = len(keys) - report.failures.total()


def _find_modes(
    store: Store,
    relaxed: Calculations,
    modes: Calculations,
    keys: Sequence[MaterialKey],
    report: RelaxReport,
    say: Say,
) -> None:
    """Compute the lowest frequency of relaxed materials, of all but those with isotopes of their own."""
    heavy = {key.material_id: isotopes for key in keys if (isotopes := isotopes_of(key.bucket))}
    _refuse_isotopes(store, heavy)
    ids = {
        key.content_hash: key.material_id
        for key in keys
        if key.material_id not in heavy and FIGURES in relaxed.results[key.content_hash]
    }
    stored = _Published(store, modes, ids, phonon_properties)
    stored.what_is_there()
    done = _Counted(say, "materials with phonons", len(ids), sum(map(modes.is_done, ids)))
    modes.run(relaxed.crystals(lambda hash_: hash_ in ids and not modes.is_done(hash_)), stored, done.one_more)
    lowest = [result[FIGURES][LOWEST_FREQUENCY] for hash_ in ids if FIGURES in (result := modes.results.get(hash_, {}))]
    report.with_phonons, report.imaginary = len(lowest), sum(value < IMAGINARY for value in lowest)
    report.phonon_failures = _reasons(modes, ids)
    if heavy:
        report.phonon_failures["rejected"] += len(heavy)


def _refuse_isotopes(store: Store, heavy: Mapping[str, str]) -> None:
    from campaigns.exchange.calculation import natural_masses

    store.set_properties({id_: {PHONON_FAILURE: f"rejected: {natural_masses(i)}"} for id_, i in heavy.items()})


def _reasons(calculations: Calculations, hashes: Iterable[str]) -> Counter[str]:
    results = [calculations.results.get(hash_, {}) for hash_ in hashes]
    return Counter(result[FAILURE]["reason"] for result in results if FAILURE in result)


class _Published:
    """Results as properties of the store; called with the hashes of those that are on the disk."""

    def __init__(
        self,
        store: Store,
        calculations: Calculations,
        ids: Mapping[str, str],
        properties: Callable[[Json, Method], Properties],
    ):
        self._store = store
        self._calculations = calculations
        self._ids = ids
        self._properties = properties

    def __call__(self, hashes: Iterable[str]) -> None:
        """Set the properties of these crystals."""
        self._store.set_properties({self._ids[hash_]: self._of(hash_) for hash_ in hashes})

    def what_is_there(self) -> None:
        """Set properties of results that an earlier run kept and whose material lacks them, or has others."""
        done = [hash_ for hash_ in self._ids if self._calculations.is_done(hash_)]
        if not done:
            return
        known = self._store.property_values({name for hash_ in done for name in self._of(hash_)})
        self([h for h in done if any(known[n].get(self._ids[h]) != v for n, v in self._of(h).items())])

    def _of(self, hash_: str) -> Properties:
        return self._properties(self._calculations.results[hash_], self._calculations.method)


class _Counted:
    """Progress of many crystals: how many of all are done."""

    def __init__(self, say: Say, what: str, total: int, done: int):
        self._say, self._what, self._total, self._done = say, what, total, done

    def one_more(self) -> None:
        self._done += 1
        self._say(Count(f"{self._done} of {self._total} {self._what}"))


def _materials(store: Store, request: RelaxRequest) -> list[MaterialKey]:
    """Materials to relax, in order of insertion."""
    ids = {entry.material_id for entry in store.queue(UNFINISHED)} if request.queued else None
    keys = [key for key in store.material_index() if ids is None or key.material_id in ids]
    if not keys and request.queued:
        raise CampaignError("no queue entry is unfinished; leave out --queued to relax all materials")
    if not keys:
        raise CampaignError("the campaign holds no materials; add some with `kappascout ingest DIR FILE...`")
    return keys


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Lock against a second relaxation; rounds and imports of the same campaign go on meanwhile."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(directory / LOCK, timeout=0):
            yield
    except Timeout as error:
        raise CampaignBusyError(
            f"another process relaxes the materials of {directory}; wait until it has finished"
        ) from error
