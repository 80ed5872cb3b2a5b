"""A campaign: one directory, one objective, one pool, a budget, and verbs that read as the user speaks."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from campaigns.configuration import FILE, Configuration, read_configuration
from campaigns.exceptions import CampaignBusyError, CampaignError, MixedFidelitiesError, NoCandidatesError
from campaigns.files import write_whole
from campaigns.ingestion import IngestReport, LabelField, ingest
from campaigns.label_files import read_labels
from campaigns.labelers import Labeler, make_labeler
from campaigns.training_set import best_value, training_labels
from db.records import CampaignRecord, LabelReport, QueueEntryRecord, RoundRecord
from db.states import CampaignState, QueueState, RoundState
from db.store import Store

if TYPE_CHECKING:
    import pandas as pd

    from engine.learning.backbone import Backbone

_AWAITED = (QueueState.APPROVED, QueueState.EXPORTED, QueueState.RUNNING)


@dataclass(frozen=True)
class RunReport:
    """What a run did and why it ended."""

    rounds: tuple[int, ...]
    """Numbers of the rounds that were queued or judged."""
    stopped: Literal["rounds", "waiting", "budget", "candidates"]
    message: str


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
        **values: Any,
    ) -> Campaign:
        """Make a new campaign with a commented ``campaign.toml``; an existing one is never touched."""
        directory = Path(directory)
        defaults = {
            "name": directory.resolve().name,
            "goal": goal,
            "property": property,
            "unit": "W/(m K)" if property.startswith("kappa") else "",
            "fidelity": "dft",
            "batch": 20,
            "budget": 200,
            "labeler": "dft",
            "replay": "",
        }
        return cls.create_from(directory, _template(template).format(**defaults | values))

    @classmethod
    def create_from(cls, directory: Path, text: str) -> Campaign:
        """Make a new campaign from the text of its ``campaign.toml``."""
        path = directory / FILE
        if path.exists():
            raise CampaignError(f"{path} exists already; choose another directory, or edit it to change the campaign")
        try:
            write_whole(path, text)
            configuration = read_configuration(path)
            section = configuration.campaign
            with Store.open(_store_url(configuration, directory), create=True) as store:
                store.create_campaign(CampaignRecord(section.name, section.goal, section.property, seed=section.seed))
        except OSError as error:
            raise CampaignError(f"cannot write to {directory} ({error.strerror}); choose a directory of yours") from error
        return cls.open(directory)

    @classmethod
    def open(cls, directory: Path | str) -> Campaign:
        """Open an existing campaign and check its settings."""
        directory = Path(directory)
        configuration = read_configuration(directory / FILE)
        store = Store.open(_store_url(configuration, directory), campaign=configuration.campaign.name)
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
        """The labeler that ``campaign.toml`` names."""
        return make_labeler(self.configuration, self.directory)

    def backbone(self, name: str) -> Backbone:
        """A checked backbone by name, or by a path relative to the campaign directory."""
        beside = self.directory / name
        return _backbone(str(beside) if beside.exists() else name)

    # -- what comes in ------------------------------------------------------------------------------------------------

    def ingest(
        self,
        sources: Sequence[str],
        labels: Sequence[LabelField] = (),
        workers: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> IngestReport:
        """Add candidates from files, folders, archives or built-in sets."""
        return ingest(self.store, sources, labels, workers, progress)

    def import_labels(self, paths: Sequence[Path | str]) -> LabelReport:
        """Labels from CSV or JSON lines, all files or none; queue entries whose label came in are done."""
        labels, locations = [], []
        for path in paths:
            found, where = read_labels(Path(path))
            labels += found
            locations += where
        report = self.store.add_labels(labels, locations)
        self._finish_entries("label imported")
        return report

    def record(self, material_id: str, value: float, **fields: Any) -> LabelReport:
        """Record one label of the campaign's property from a notebook; ``fields`` as in :class:`LabelRecord`."""
        from db.records import LabelRecord

        section = self.configuration.campaign
        values = {"property": section.property, "unit": section.unit, "fidelity": section.fidelity} | fields
        report = self.store.add_labels([LabelRecord(material_id=material_id, value=value, **values)])
        self._finish_entries("label recorded")
        return report

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(
        self,
        rounds: int | None = None,
        say: Callable[[str], None] = lambda text: None,
        *,
        wait: bool = True,
    ) -> RunReport:
        """Do as many rounds as the labeler, the budget and ``rounds`` allow, going on where an earlier run ended.

        With ``wait=False`` a new round starts although results of the last are awaited; what is awaited is conditioned
        on, never asked for again.
        """
        from campaigns.round import finish_round, open_round

        with self._lock():
            touched: dict[int, None] = {}
            opened = 0
            while True:
                last = next(reversed(self.store.rounds()), None)
                if last is not None and last.state.step < RoundState.QUEUED.step:
                    touched[finish_round(self, last, say).number] = None
                    opened += 1
                for number in self._collect():
                    say(f"round {number}: judged")
                    touched[number] = None
                left = self._awaited()
                if left and wait:
                    self._set_state(CampaignState.WAITING)
                    return RunReport(tuple(touched), "waiting", self._waiting(left))
                if rounds is not None and opened >= rounds:
                    return RunReport(tuple(touched), "rounds", f"{rounds} rounds done, as asked")
                batch = self._batch_within_budget()
                if batch < 1:
                    self._set_state(CampaignState.STOPPED)
                    budget = self.configuration.campaign.budget
                    return RunReport(
                        tuple(touched), "budget", f"the budget of {budget} labels is spent; raise it in {FILE} to go on"
                    )
                self._check_fidelity(say)
                self._set_state(CampaignState.ACTIVE)
                try:
                    record = open_round(self, batch)
                except NoCandidatesError as error:
                    if not touched:
                        raise
                    return RunReport(tuple(touched), "candidates", str(error))
                touched[finish_round(self, record, say).number] = None
                opened += 1

    # -- the queue ----------------------------------------------------------------------------------------------------

    def queue_entries(
        self, states: Sequence[QueueState] | None = None, round: int | None = None
    ) -> list[QueueEntryRecord]:
        """Queue entries by round and rank."""
        return self.store.queue(states, round)

    def queue(self) -> pd.DataFrame:
        """Every queue entry as a row, with the material's formula."""
        import pandas as pd

        return pd.DataFrame([queue_row(e, f) for e, f in self.with_formula(self.store.queue())])

    def labels(self) -> pd.DataFrame:
        """Every current label as a row."""
        import pandas as pd

        return pd.DataFrame([vars(label) for label in self.store.labels()])

    def with_formula(self, entries: Sequence[QueueEntryRecord]) -> list[tuple[QueueEntryRecord, str]]:
        """Entries with the formula of their material."""
        formulas = {m.material_id: m.formula for m in self.store.materials(dict.fromkeys(e.material_id for e in entries))}
        return [(e, formulas[e.material_id]) for e in entries]

    def move(self, ids: Sequence[str], to: QueueState, note: str = "") -> list[QueueEntryRecord]:
        """Approve or withdraw the unfinished entries of these materials; without ids, all that may move so."""
        from db.states import QUEUE_MOVES

        with self._lock():
            entries = [e for e in self.store.queue() if not e.state.is_finished]
            if ids:
                wanted = set(self.store.resolve_all(ids).values())
                absent = wanted - {e.material_id for e in entries}
                if absent:
                    raise CampaignError(
                        f"not in the queue, or finished: {', '.join(sorted(absent))}; `kappascout queue list` shows it"
                    )
                chosen = [e for e in entries if e.material_id in wanted]
            else:
                chosen = [e for e in entries if to in QUEUE_MOVES[e.state]]
            self.store.move([e.id for e in chosen if e.id], to, _author(), note)
        return chosen

    # -- inside -------------------------------------------------------------------------------------------------------

    def _collect(self) -> list[int]:
        """Let the labeler work, finish entries whose label is there, judge rounds whose entries are all finished."""
        entries = [e for e in self.store.queue() if not e.state.is_finished]
        if entries:
            self.labeler.work(self.store, entries)
            self._finish_entries("label found")
        from campaigns.judging import judge_round

        judged = []
        for record in self.store.rounds():
            if record.state is RoundState.QUEUED:
                own = self.store.queue(round=record.number)
                if all(e.state.is_finished for e in own):
                    judge_round(self, record, own)
                    judged.append(record.number)
        return judged

    def _finish_entries(self, note: str) -> None:
        """Move entries whose label is in the store to done; a label for a proposed entry approves it."""
        known = training_labels(self.store, self.configuration.campaign)
        open_entries = [e for e in self.store.queue() if not e.state.is_finished and e.material_id in known]
        proposed = [e.id for e in open_entries if e.state is QueueState.PROPOSED and e.id]
        self.store.move(proposed, QueueState.APPROVED, _author(), note)
        self.store.move([e.id for e in open_entries if e.id], QueueState.DONE, _author(), note)

    def _awaited(self) -> list[QueueEntryRecord]:
        return [e for e in self.store.queue() if not e.state.is_finished]

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
        asked = sum(e.state is not QueueState.WITHDRAWN for e in self.store.queue())
        return min(section.batch, section.budget - asked)

    def _check_fidelity(self, say: Callable[[str], None]) -> None:
        section = self.configuration.campaign
        known = self.store.fidelities(section.property)
        if known and section.fidelity not in known and not self.store.rounds():
            others = ", ".join(f"{n} of fidelity {f!r}" for f, n in known.items())
            say(
                f"there are no labels of fidelity {section.fidelity!r}, but {others}; "
                f"set fidelity in {FILE} if those should train the model"
            )

    def _set_state(self, state: CampaignState) -> None:
        if self.store.campaign().state is not state:
            if state is CampaignState.WAITING and self.store.campaign().state is CampaignState.STOPPED:
                self.store.set_campaign_state(CampaignState.ACTIVE)
            self.store.set_campaign_state(state)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """One process at a time changes the campaign; the second says so and stops."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.directory / ".lock")
        try:
            with lock.acquire(timeout=0):
                yield
        except Timeout as error:
            raise CampaignBusyError(
                f"another process works on {self.directory}; wait until it has finished, then run the command again"
            ) from error
        except PermissionError as error:
            raise CampaignError(f"no permission to write to {self.directory}; change its owner or copy it") from error


def queue_row(entry: QueueEntryRecord, formula: str) -> dict[str, Any]:
    """A queue entry as people read it: one flat row."""
    return {
        "round": entry.round,
        "rank": entry.rank,
        "id": entry.material_id,
        "formula": formula,
        "state": str(entry.state),
        "mean": entry.predicted_mean,
        "lower": entry.predicted_lower,
        "upper": entry.predicted_upper,
        "log10_mean": entry.log10_mean,
        "log10_std": entry.log10_std,
        "acquisition": entry.acquisition_value,
        "cost": entry.expected_cost,
        "fidelity": entry.fidelity,
        "reason": entry.reason,
    }


def round_row(record: RoundRecord) -> dict[str, Any]:
    """A round as people read it: labels, error before and after, coverage, hits, best, cost."""
    before, after = record.metrics_before or {}, record.metrics_after or {}
    model = before.get("model", {})
    return {
        "round": record.number,
        "state": str(record.state),
        "labels": record.manifest["labels"],
        "cv_mae": model.get("mae"),
        "cv_mae_trees": before.get("extra_trees", {}).get("mae"),
        "cv_mae_constant": before.get("constant", {}).get("mae"),
        "cv_spearman": model.get("spearman"),
        "cv_r2": model.get("r2"),
        "cv_nll": model.get("nll"),
        "cv_coverage_50": model.get("coverage_50"),
        "cv_coverage_90": model.get("coverage_90"),
        "new_labels": after.get("rows"),
        "mae": after.get("mae"),
        "spearman": after.get("spearman"),
        "r2": after.get("r2"),
        "nll": after.get("nll"),
        "coverage_50": after.get("coverage_50"),
        "coverage_90": after.get("coverage_90"),
        "failed": after.get("failed"),
        "hits": after.get("hits"),
        "enhancement": after.get("enhancement"),
        "best": after.get("best"),
        "cost": after.get("cost"),
    }


def status(campaign: Campaign) -> dict[str, Any]:
    """Where a campaign stands, in plain values."""
    section = campaign.configuration.campaign
    store = campaign.store
    labels = training_labels(store, section)
    asked = sum(e.state is not QueueState.WITHDRAWN for e in store.queue())
    rounds = store.rounds()
    return {
        "campaign": section.name,
        "state": str(store.campaign().state),
        "goal": section.goal,
        "property": section.property,
        "fidelity": section.fidelity,
        **{noun: count for noun, count in store.counts().items() if noun in ("materials", "rejections")},
        "labels": len(labels),
        "best": best_value(labels, section.goal),
        "rounds": len(rounds),
        "last_round": str(rounds[-1].state) if rounds else None,
        "queue": {str(state): n for state, n in store.queue_counts().items() if n},
        "asked": asked,
        "budget": section.budget,
    }


def upgrade_store(directory: Path) -> tuple[str, str]:
    """Bring a campaign's store to this program's version; returns the versions before and after."""
    return Store.upgrade(_store_url(read_configuration(directory / FILE), directory))


def _template(name: str) -> str:
    folder = resources.files("campaigns") / "templates"
    path = folder / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml")))
        raise CampaignError(f"no template {name!r}; there are: {known}")
    return path.read_text()


def _store_url(configuration: Configuration, directory: Path) -> str | Path:
    return configuration.store.url or directory / "store.sqlite"


@lru_cache(maxsize=4)
def _backbone(name: str) -> Backbone:
    from engine.learning.backbone import load_backbone

    return load_backbone(name)


def _author() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"

