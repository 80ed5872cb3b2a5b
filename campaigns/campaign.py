"""A campaign: one directory, one objective, one pool, a budget, and verbs that read as the user speaks."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from campaigns.configuration import FILE, Configuration, campaign_toml, parse_configuration, read_configuration
from campaigns.exceptions import CampaignBusyError, CampaignError, LabelFileError, NoCandidatesError
from campaigns.files import write_whole
from campaigns.intake.crystals import IngestReport, LabelField, ingest
from campaigns.intake.doubts import Doubt, best_doubt, new_doubts
from campaigns.intake.label_files import read_labels
from campaigns.intake.label_names import LabelNames
from campaigns.labelers.labelers import Labeler, make_labeler
from campaigns.pool.labels import training_labels
from campaigns.property_names import Property
from campaigns.status import queue_row
from db.connection import STRUCTURES
from db.exceptions import LabelError
from db.records import CampaignRecord, FailureRecord, LabelRecord, LabelReport, QueueEntryRecord
from db.states import QUEUE_MOVES, UNFINISHED, CampaignState, FailureReason, QueueState, RoundState
from db.store import Store

if TYPE_CHECKING:
    import pandas as pd
    from ase import Atoms
    from filelock import FileLock
    from pymatgen.core import Structure

    from campaigns.exchange.importing import EntryOutcome
    from engine.learning.backbones.stack import AnyBackbone
    from engine.materials.crystal import Crystal

Stopped = Literal["rounds", "waiting", "budget", "candidates", "advice"]


@dataclass(frozen=True)
class RunReport:
    """What a run did and why it ended."""

    rounds: tuple[int, ...]
    """Numbers of the rounds that were queued or judged."""
    stopped: Stopped
    message: str


@dataclass(frozen=True)
class ImportReport(LabelReport):
    """What became of a batch of labels, and of the folders of an export."""

    doubtful: tuple[Doubt, ...] = ()
    """Labels that were written and are doubtful."""
    withdrawn: tuple[LabelRecord, ...] = ()
    """Labels that came with the value they were withdrawn with, and stay withdrawn."""
    entries: tuple[EntryOutcome, ...] = ()


class Campaign:
    """An open campaign directory; close it, or use it as a context manager.

    The directory holds ``campaign.toml``, the store and ``artifacts/`` (graphs, embeddings, models, predictions), and
    may be copied to another machine.
    """

    def __init__(self, directory: Path, configuration: Configuration, store: Store):
        self.directory = directory
        self.configuration = configuration
        self.store = store
        self.features = self.artifacts
        """Folder of graphs and embeddings; campaigns on the same crystals may share one."""

    @classmethod
    def create(
        cls,
        directory: Path | str,
        goal: Literal["min", "max"] = "min",
        property: str = "kappa_300K",
        template: str = "default",
        settings: Mapping[str, Mapping[str, object]] | None = None,
        **values: object,
    ) -> Campaign:
        """Make a new campaign with a commented ``campaign.toml``; an existing one is never touched.

        ``settings`` are further settings by section, and ``values`` those of ``[campaign]``.
        """
        directory = Path(directory)
        given = {
            "name": directory.resolve().name,
            "goal": goal,
            "property": property,
            "unit": Property(property).unit,
        }
        text = campaign_toml({**(settings or {}), "campaign": given | values}, template)
        return cls.create_from(directory, text)

    @classmethod
    def create_from(cls, directory: Path, text: str) -> Campaign:
        """Make a new campaign from the text of its ``campaign.toml``, which is written last and vouches for it all."""
        path = directory / FILE
        if path.exists():
            raise CampaignError(f"{path} exists already; choose another directory, or edit it to change the campaign")
        configuration = parse_configuration(text, str(path))
        section = configuration.campaign
        try:
            directory.mkdir(parents=True, exist_ok=True)
            patience = configuration.store.timeout
            with Store.open(_store_url(configuration, directory), create=True, timeout=patience) as store:
                left = [] if configuration.store.url else [c.name for c in store.campaigns()]
                if section.name not in left:  # an earlier attempt may have been killed here
                    store.create_campaign(
                        CampaignRecord(section.name, section.goal, section.property, seed=section.seed)
                    )
            write_whole(path, text)
        except OSError as error:
            raise CampaignError(
                f"cannot write to {directory} ({error.strerror}); choose a directory of yours"
            ) from error
        return cls.open(directory)

    @classmethod
    def open(cls, directory: Path | str) -> Campaign:
        """Open an existing campaign and check its settings."""
        directory = Path(directory)
        configuration = read_configuration(directory / FILE)
        store = Store.open(
            _store_url(configuration, directory),
            campaign=configuration.campaign.name,
            timeout=configuration.store.timeout,
            structures=directory / STRUCTURES,
        )
        store.label_limits = {name: (r.min, r.max) for name, r in configuration.labels.limits.items()}
        return cls(directory, configuration, store)

    def close(self) -> None:
        """Let go of the store."""
        self.store.close()

    def __enter__(self) -> Campaign:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def artifacts(self) -> Path:
        """Folder of everything that is not in the store."""
        return self.directory / "artifacts"

    @cached_property
    def labeler(self) -> Labeler:
        """Labeler that ``campaign.toml`` names."""
        return make_labeler(self.configuration, self.directory)

    def backbone(self, names: str | Sequence[str]) -> AnyBackbone:
        """Load a checked backbone by name, or by a path relative to the campaign directory; or several side by side."""
        given = [names] if isinstance(names, str) else names
        beside = [self.directory / name for name in given]
        return _backbone(tuple(str(path) if path.exists() else n for path, n in zip(beside, given, strict=True)))

    # -- what comes in ------------------------------------------------------------------------------------------------

    def ingest(
        self,
        sources: Sequence[str],
        labels: Sequence[LabelField] = (),
        workers: int | None = None,
        say: Callable[[str], None] = lambda _: None,
        new_property: bool = False,
    ) -> IngestReport:
        """Add candidates from files, folders, archives, built-in sets or databases; see :func:`ingest`.

        A property or fidelity of ``labels`` that is nearly a known one is refused, unless it is a ``new_property``.
        """
        with self.locked():
            mistakes = [] if new_property else self._label_names().mistakes((f.property, f.fidelity) for f in labels)
            if any(mistakes):
                raise CampaignError("; ".join(dict.fromkeys(filter(None, mistakes))))
            report = ingest(self.store, sources, labels, workers, say, self.artifacts / "sources")
            report.doubtful = new_doubts(self.store, report.label_ids)
            if known := self._withdrawn_before(report.unchanged_label_ids):
                report.notes.append(f"{len(known)} labels came with the value they were withdrawn with; they stay so")
        return report

    def import_labels(
        self,
        paths: Sequence[Path | str],
        material_id: str | None = None,
        temperatures: Sequence[float] = (),
        as_method: str = "",
        force: bool = False,
        *,
        new_property: bool = False,
        again: bool = False,
    ) -> ImportReport:
        """Import labels and results; queue entries whose label came in are done.

        Files of labels (CSV, JSON lines) and ``kappa-*.hdf5`` are kept all or none. A folder or archive of an export is
        read as far as it has come: entries that ended are done or failed, those that are not what was exported are
        refused one by one. Importing again changes nothing.

        Parameters
        ----------
        paths
            Files of labels, ``kappa-*.hdf5``, folders and archives that an export wrote.
        material_id
            Whose conductivity the ``kappa-*.hdf5`` hold.
        temperatures
            Kelvin; kept beside the temperature of the campaign's property.
        as_method
            Name for conductivities of another method than exported, which are labels of their own; without it they
            are refused.
        force
            Take conductivities that are judged not to be their crystal's; provenance says so.
        new_property
            A property or fidelity that is nearly a known one is meant as it stands.
        again
            Keep labels of files that were withdrawn with the same value, rather than pass them over.

        Raises
        ------
        LabelError
            With every bad row of every file.
        ExchangeError
            If a ``kappa-*.hdf5`` is refused.
        """
        from campaigns.exchange.importing import EntryOutcome, add_newest, is_export, read_exports, record_results
        from campaigns.exchange.kappa_labels import Wanted, kappa_labels

        given = [Path(path) for path in paths]
        wanted = Wanted(tuple(temperatures), as_method, force)
        tensors = [path for path in given if path.suffix == ".hdf5"]
        if tensors and material_id is None:
            raise LabelFileError(f"{tensors[0]} does not say of which material it is; give its id with --id")
        tables = [path for path in given if path.suffix != ".hdf5" and not is_export(path)]
        if (as_method or force) and len(tables) == len(given):
            raise LabelFileError("--as-method and --force are for results of phono3py; none is given")
        files = [read_labels(path) for path in tables]
        labels = [label for file in files for label in file.labels]
        places = [place for file in files for place in file.places]
        problems = [problem for file in files for problem in file.problems]
        with self.locked(), self.store.transaction():
            readings = read_exports(self, [path for path in given if is_export(path)], wanted)
            if not new_property:
                problems += self._label_names().problems(labels, places)
            try:
                report = self.store.add_labels(labels, places, again)
            except LabelError as error:
                problems += error.problems
            if problems:
                order = {place: i for i, place in enumerate(place for file in files for place in file.order)}
                raise LabelError(sorted(problems, key=lambda p: order[p.location]), len(order))
            outcomes = []
            for path in tensors:
                of_file, said = kappa_labels(self, path, material_id or "", wanted)
                add_newest(self, of_file, report)
                outcomes += [EntryOutcome(path.name, material_id or "", "done", "; ".join(said))] if said else []
            outcomes += record_results(self, readings, report, wanted)
            self._finish_entries("label imported")
            return self._import_report(report, outcomes)

    def record(
        self, material_id: str, value: float, *, new_property: bool = False, again: bool = False, **fields: Any
    ) -> ImportReport:
        """Record one label of the campaign's property from a notebook; ``fields`` as in :class:`LabelRecord`.

        ``new_property`` and ``again`` as in :meth:`import_labels`.
        """
        section = self.configuration.campaign
        values = {"property": section.property, "unit": section.unit, "fidelity": section.fidelity} | fields
        with self.locked(), self.store.transaction():
            label = LabelRecord(material_id=material_id, value=value, **values)
            _ = Property(label.property).temperature  # a name with two is refused here
            if problems := [] if new_property else self._label_names().problems([label], ["label 1"]):
                raise LabelError(problems, 1)
            report = self.store.add_labels([label], again=again)
            self._finish_entries("label recorded")
            return self._import_report(report)

    def withdraw_labels(
        self, ids: Sequence[int | str], reason: str, property: str | None = None, fidelity: str | None = None
    ) -> list[LabelRecord]:
        """Take labels back: they are kept with who, when and why, train nothing, and do not count as known.

        The queue entries they answered stay done; a material without another label of the campaign's property and
        fidelity is a candidate again.

        Parameters
        ----------
        ids
            Ids of labels; with ``property`` or ``fidelity``, ids of materials, whose labels of these are meant.
        reason
            Why.
        property, fidelity
            Which labels of the materials; the campaign's own for the one that is not given.

        Raises
        ------
        CampaignError
            If a material has no such label, or an id is none of a label.
        """
        section = self.configuration.campaign
        with self.locked(), self.store.transaction():
            if property is None and fidelity is None:
                chosen = [_label_id(id_) for id_ in ids]
            else:
                wanted = property or section.property, fidelity or section.fidelity
                found = self.store.labels(*wanted, material_ids=[str(id_) for id_ in ids])
                owners = self.store.resolve_all([str(id_) for id_ in ids])
                absent = [id_ for id_, owner in owners.items() if owner not in {label.material_id for label in found}]
                if absent:
                    raise CampaignError(f"{', '.join(absent)}: no current label of {wanted[0]} ({wanted[1]})")
                chosen = [label.id or 0 for label in found]
            return self.store.withdraw_labels(chosen, _author(), reason)

    def candidates_again(self, labels: Sequence[LabelRecord]) -> list[str]:
        """Which of these labels' materials lack a label of the campaign's property and fidelity, and may be queued."""
        from campaigns.pool.pool import queued_ids

        section = self.configuration.campaign
        own = [x for x in labels if (x.property, x.fidelity) == (section.property, section.fidelity)]
        ids = dict.fromkeys(label.material_id for label in own)
        known = training_labels(self.store, self.configuration)
        pending, spent = queued_ids(self.store, section.fidelity)
        return [id_ for id_ in ids if id_ not in {*known, *pending, *spent}]

    def fail(self, ids: Sequence[str], reason: FailureReason, message: str = "") -> list[QueueEntryRecord]:
        """Record that the calculations of these materials gave no label; their queue entries are failed."""
        section = self.configuration.campaign
        with self.locked(), self.store.transaction():
            chosen = self._unfinished(ids)
            self.store.add_failures(
                FailureRecord(e.material_id, section.property, e.fidelity, reason, message, source=_author())
                for e in chosen
            )
            self._move(chosen, QueueState.FAILED, f"{reason}: {message}" if message else str(reason))
        return chosen

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(
        self,
        rounds: int | None = None,
        say: Callable[[str], None] = lambda text: None,
        *,
        wait: bool = True,
        go_on: bool = False,
    ) -> RunReport:
        """Do as many rounds as the labeler, the budget and ``rounds`` allow, going on where an earlier run ended.

        Where ``[stopping] action`` is ``stop``, no round starts once stopping is advised, unless told to ``go_on``.
        With ``wait=False`` a new round (or as many as ``rounds``) starts although results of the last are awaited; what
        is awaited is conditioned on, never asked for again.
        """
        from campaigns.round.steps import finish_round, open_round
        from campaigns.round.stopping import stopping_advice

        with self.locked():
            _ = self.labeler  # a replay without answers stops here, before anything expensive
            done: list[int] = []
            begun = self._go_on(say)
            done += begun
            while True:
                done += self._collect(say)
                left = self.store.queue(UNFINISHED)
                if left and (wait or len(begun) >= (rounds or 1)):
                    return self._stop(CampaignState.WAITING, "waiting", done, self._waiting(left))
                if rounds is not None and len(begun) >= rounds:
                    return RunReport(_unique(done), "rounds", f"rounds asked for and done: {rounds}")
                ended = CampaignState.WAITING if left else CampaignState.STOPPED
                if spent := self._spent():
                    return self._stop(ended, "budget", done, f"{spent} is spent; raise it in {FILE} to go on")
                if self.configuration.stopping.action == "stop" and not go_on:
                    advice = stopping_advice(self)
                    if advice.stop:
                        onward = f"`kappascout run {self.directory} --go-on` starts another round all the same"
                        return self._stop(ended, "advice", done, f"{advice.words}; {onward}")
                for note in self._notes() if not begun else ():
                    say(note)
                try:
                    record = open_round(self, self._batch_within_budget())
                except NoCandidatesError as error:
                    if not done:
                        raise
                    return self._stop(CampaignState.STOPPED, "candidates", done, str(error))
                self._set_state(CampaignState.ACTIVE)
                finish_round(self, record, say)
                begun.append(record.number)
                done.append(record.number)

    def _notes(self) -> Iterator[str]:
        """Say what should be known of the labels before a round begins."""
        labels = training_labels(self.store, self.configuration)
        if note := self.fidelity_note():
            yield note
        if doubt := best_doubt(self, labels):
            yield (
                f"the best so far is doubtful, and every candidate is measured against it: {doubt}; if it is wrong, "
                f"`kappascout label withdraw {self.directory} {doubt.label.id} --reason TEXT` takes it back"
            )

    def fidelity_note(self) -> str | None:
        """Say which labels of the campaign's property do not train its models, if there are any."""
        section = self.configuration.campaign
        known = self.store.fidelities(section.property)
        used = known.pop(section.fidelity, 0)
        known.pop(self.configuration.lower_fidelity, None)
        if not known:
            return None
        others = ", ".join(f"{n} of fidelity {name!r}" for name, n in known.items())
        return (
            f"labels of {section.property} that train: {used} of fidelity {section.fidelity!r}; that do not: {others} "
            f"(one fidelity trains a campaign, set in {FILE})"
        )

    # -- the queue ----------------------------------------------------------------------------------------------------

    def queue_entries(
        self, states: Sequence[QueueState] | None = None, round: int | None = None
    ) -> list[QueueEntryRecord]:
        """List queue entries by round and rank."""
        return self.store.queue(states, round)

    def queue(self, states: Sequence[QueueState] | None = None, round: int | None = None) -> pd.DataFrame:
        """List queue entries by round and rank, one a row, with the material's formula."""
        import pandas as pd

        columns = list(queue_row(QueueEntryRecord(rank=1, material_id="none"), ""))
        rows = [queue_row(e, f) for e, f in self.with_formula(self.store.queue(states, round))]
        return pd.DataFrame(rows, columns=columns)

    def labels(self, property: str | None = None, fidelity: str | None = None) -> pd.DataFrame:
        """List current labels, one a row, filtered by what is given."""
        import pandas as pd

        columns = [field.name for field in fields(LabelRecord)]
        return pd.DataFrame([vars(label) for label in self.store.labels(property, fidelity)], columns=columns)

    def crystal(self, material_id: str) -> Crystal:
        """Give the standardised crystal of a material, known by any of its ids."""
        from engine.materials.crystal import Crystal

        return Crystal.from_dict(self.store.material(material_id).structure)

    def structure(self, material_id: str) -> Structure:
        """Give it as a pymatgen ``Structure``."""
        return self.crystal(material_id).to_structure()

    def atoms(self, material_id: str) -> Atoms:
        """Give it as ASE ``Atoms``."""
        return self.crystal(material_id).to_atoms()

    def with_formula(self, entries: Sequence[QueueEntryRecord]) -> list[tuple[QueueEntryRecord, str]]:
        """Entries with the formula of their material."""
        ids = dict.fromkeys(e.material_id for e in entries)
        formulas = {key.material_id: key.formula for key in self.store.material_index(ids)}
        return [(e, formulas[e.material_id]) for e in entries]

    def move(
        self, ids: Sequence[str], to: QueueState, note: str = "", fidelity: str | None = None
    ) -> list[QueueEntryRecord]:
        """Approve or withdraw the unfinished entries of these materials; without ids, all that may move so.

        A material may have entries of several fidelities; ``fidelity`` takes those of one.
        """
        with self.locked(), self.store.transaction():
            chosen = self._unfinished(ids, fidelity) if ids else [
                e for e in self.store.queue(UNFINISHED) if to in QUEUE_MOVES[e.state]
            ]  # fmt: skip
            self._move(chosen, to, note)
        return chosen

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from changing the campaign; the second says so and stops."""
        from filelock import Timeout

        try:
            with self._file_lock.acquire(timeout=0):
                yield
        except Timeout as error:
            raise CampaignBusyError(
                f"another process works on {self.directory}; wait until it has finished, then run the command again"
            ) from error
        except PermissionError as error:
            raise CampaignError(
                f"no permission to write to {error.filename or self.directory}; change its owner, or copy the campaign "
                "to a directory of yours"
            ) from error

    # -- inside -------------------------------------------------------------------------------------------------------

    @cached_property
    def _file_lock(self) -> FileLock:
        from filelock import FileLock

        return FileLock(self.directory / ".lock")

    def _go_on(self, say: Callable[[str], None]) -> list[int]:
        """Finish the round that an earlier run left unfinished, if it did; its number."""
        from campaigns.round.steps import changed_settings, finish_round

        last = next(reversed(self.store.rounds()), None)
        if last is None or last.state.step >= RoundState.QUEUED.step:
            return []
        say(f"round {last.number}: going on after its last finished step, {last.state}")
        if changed := changed_settings(self.configuration, last):
            say(f"round {last.number}: keeps the settings it began with; changed since: {', '.join(changed)}")
        finish_round(self, last, say)
        return [last.number]

    def _collect(self, say: Callable[[str], None]) -> list[int]:
        """Let the labeler work, finish entries whose label is there, judge rounds whose entries are all finished."""
        from campaigns.round.judge import judge_round

        if entries := self.store.queue(UNFINISHED):
            before = self.store.last_label()
            self.labeler.work(self.store, entries, say)
            for doubt in new_doubts(self.store, range(before + 1, self.store.last_label() + 1)):
                say(f"doubtful: {doubt}")
            with self.store.transaction():
                self._finish_entries("label found")
        judged = []
        for record in self.store.rounds():
            if record.state is RoundState.QUEUED:
                own = self.store.queue(round=record.number)
                if all(e.state.is_finished for e in own):
                    judge_round(self, record, own)
                    say(f"round {record.number}: judged")
                    judged.append(record.number)
        return judged

    def _label_names(self) -> LabelNames:
        return LabelNames.of(self.configuration, self.store)

    def _withdrawn_before(self, ids: Collection[int]) -> list[LabelRecord]:
        known = set(ids)
        return [label for label in self.store.withdrawn_labels() if label.id in known]

    def _import_report(self, report: LabelReport, outcomes: Sequence[EntryOutcome] = ()) -> ImportReport:
        return ImportReport(
            **vars(report),
            doubtful=tuple(new_doubts(self.store, report.added)),
            withdrawn=tuple(self._withdrawn_before(report.unchanged)),
            entries=tuple(outcomes),
        )

    def _finish_entries(self, note: str) -> None:
        """Move entries whose label is in the store to done; a label for a proposed entry approves it."""
        entries = self.store.queue(UNFINISHED)
        if not entries:
            return
        properties = {r.number: r.manifest["settings"]["campaign"]["property"] for r in self.store.rounds()}
        known = {(label.material_id, label.property, label.fidelity) for label in self.store.labels()}
        found = [e for e in entries if (e.material_id, properties[e.round or 0], e.fidelity) in known]
        self._move([e for e in found if e.state is QueueState.PROPOSED], QueueState.APPROVED, note)
        self._move(found, QueueState.DONE, note)

    def _unfinished(self, ids: Sequence[str], fidelity: str | None = None) -> list[QueueEntryRecord]:
        """Unfinished entries of these materials, under any id they are known by; a material may have several."""
        entries: dict[str, list[QueueEntryRecord]] = {}
        for entry in self.store.queue(UNFINISHED, material_ids=ids):
            if fidelity in (None, entry.fidelity):
                entries.setdefault(entry.material_id, []).append(entry)
        owners = self.store.resolve_all(ids)
        absent = [id_ for id_ in ids if owners[id_] not in entries]
        if absent:
            raise CampaignError(
                f"not in the queue, or finished: {', '.join(absent)}; `kappascout queue list {self.directory}` shows it"
            )
        return [e for material_id in dict.fromkeys(owners[id_] for id_ in ids) for e in entries[material_id]]

    def _move(self, entries: Sequence[QueueEntryRecord], to: QueueState, note: str) -> None:
        self.store.move([e.id for e in entries if e.id is not None], to, _author(), note)

    def _waiting(self, left: Sequence[QueueEntryRecord]) -> str:
        proposed = sum(e.state is QueueState.PROPOSED for e in left)
        where = self.directory
        steps = f"`kappascout label import {where} FILE` when results are there"
        if proposed:
            steps = f"`kappascout queue approve {where}`, `kappascout queue export {where} --to OUT`, then {steps}"
        return f"waiting for {len(left)} results ({proposed} not approved yet): {steps}"

    def _batch_within_budget(self) -> int:
        """How many labels the next round may ask for: the batch, less what the budget no longer covers."""
        section = self.configuration.campaign
        return min(section.batch, section.budget - self.asked())

    def _spent(self) -> str:
        """Name the budget that is spent, if one is."""
        from campaigns.round.stopping import core_hours_left

        section = self.configuration.campaign
        if self._batch_within_budget() < 1:
            return f"the budget of {section.budget} labels"
        left = core_hours_left(self)
        return f"the budget of {section.budget_core_hours:,.0f} core-hours" if left is not None and left <= 0 else ""

    def asked(self) -> int:
        """How many labels the campaign has asked for; withdrawn entries and a cheaper fidelity's do not count."""
        if cheaper := self.configuration.acquisition.fidelities:
            entries = self.store.queue([state for state in QueueState if state is not QueueState.WITHDRAWN])
            return sum(e.fidelity not in cheaper for e in entries)
        counts = self.store.queue_counts()
        return sum(counts.values()) - counts[QueueState.WITHDRAWN]

    def _stop(self, state: CampaignState, stopped: Stopped, done: list[int], message: str) -> RunReport:
        self._set_state(state)
        return RunReport(_unique(done), stopped, message)

    def _set_state(self, state: CampaignState) -> None:
        with self.store.transaction():
            present = self.store.campaign().state
            if state is CampaignState.WAITING and present is CampaignState.STOPPED:
                self.store.set_campaign_state(CampaignState.ACTIVE)
            if present is not state:
                self.store.set_campaign_state(state)


def upgrade_store(directory: Path) -> tuple[str, str]:
    """Bring a campaign's store to this program's version; returns the versions before and after."""
    configuration = read_configuration(directory / FILE)
    return Store.upgrade(_store_url(configuration, directory), configuration.store.timeout, directory / STRUCTURES)


def _store_url(configuration: Configuration, directory: Path) -> str | Path:
    return configuration.store.url or directory / "store.sqlite"


def _backbone(names: tuple[str, ...]) -> AnyBackbone:
    from engine.learning.ensemble.storage import cached_starts

    return cached_starts(names)


def _label_id(given: int | str) -> int:
    try:
        return int(given)
    except ValueError as error:
        raise CampaignError(
            f"{given!r} is no id of a label; `kappascout label list DIR` shows them, or name materials and give "
            "--property or --fidelity"
        ) from error


def _author() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _unique(numbers: Sequence[int]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(numbers))
