"""Import of labels and results: files of labels, conductivities of phono3py, folders of an export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from campaigns.exceptions import LabelFileError
from campaigns.exchange.archives import is_export
from campaigns.exchange.wanted import EntryOutcome, Wanted
from campaigns.intake.doubts import Doubt, new_doubts
from campaigns.intake.label_files import read_labels
from campaigns.intake.label_names import LabelNames
from campaigns.intake.withdrawal import withdrawn_before
from campaigns.property_names import Property
from campaigns.queue import finish_entries
from campaigns.workspace import Workspace
from db.exceptions import LabelError, LabelProblem
from db.records import LabelRecord, LabelReport
from db.store import Store

if TYPE_CHECKING:
    from campaigns.exchange.importing import Readings


@dataclass(frozen=True)
class ImportReport(LabelReport):
    """Result of an import of labels and of folders of an export."""

    doubtful: tuple[Doubt, ...] = ()
    """Labels that were written and are doubtful, with the reasons."""
    withdrawn: tuple[LabelRecord, ...] = ()
    """Labels imported with the value they were withdrawn with, which stay withdrawn."""
    entries: tuple[EntryOutcome, ...] = ()

    @classmethod
    def of(cls, store: Store, report: LabelReport, outcomes: Sequence[EntryOutcome] = ()) -> ImportReport:
        """Find the doubtful ones among labels that have just been written."""
        return cls(
            **vars(report),
            doubtful=tuple(new_doubts(store, report.added)),
            withdrawn=tuple(withdrawn_before(store, report.unchanged)),
            entries=tuple(outcomes),
        )


@dataclass(frozen=True)
class Given:
    """Paths to import, by their kind."""

    tables: tuple[Path, ...]
    """Files of labels."""
    tensors: tuple[Path, ...]
    """``kappa-*.hdf5``."""
    exports: tuple[Path, ...]
    """Folders and archives of results."""
    material_id: str | None
    """Material that the ``kappa-*.hdf5`` belong to."""
    wanted: Wanted

    @classmethod
    def of(cls, paths: Sequence[Path | str], material_id: str | None, wanted: Wanted) -> Given:
        """Sort paths.

        Raises
        ------
        LabelFileError
            For a conductivity without a material, or options that apply to none of the paths.
        """
        given = [Path(path) for path in paths]
        tensors = [path for path in given if path.suffix == ".hdf5"]
        if tensors and material_id is None:
            raise LabelFileError(f"{tensors[0]} does not name its material; give its id with --id")
        tables = [path for path in given if path.suffix != ".hdf5" and not is_export(path)]
        if (wanted.as_method or wanted.force) and len(tables) == len(given):
            raise LabelFileError("--as-method and --force are for results of phono3py; none is given")
        exports = [path for path in given if is_export(path)]
        return cls(tuple(tables), tuple(tensors), tuple(exports), material_id, wanted)


def import_labels(workspace: Workspace, given: Given, *, new_property: bool, again: bool) -> ImportReport:
    """Import labels and results; arguments and errors as of :meth:`Campaign.import_labels`."""
    store = workspace.store
    files = [read_labels(path) for path in given.tables]
    labels = [label for file in files for label in file.labels]
    places = [place for file in files for place in file.places]
    problems = [problem for file in files for problem in file.problems]
    order = [place for file in files for place in file.order]
    with workspace.locked(), store.transaction():
        readings = _exported(workspace, given)
        if not new_property:
            problems += LabelNames.of(workspace.configuration, store).problems(labels, places)
        report = _added(problems, order, lambda: store.add_labels(labels, places, again))
        outcomes = _conductivities(workspace, given, report)
        if readings is not None:
            outcomes += _recorded(workspace, readings, report, given.wanted)
        finish_entries(workspace, "label imported")
        return ImportReport.of(store, report, outcomes)


def _exported(workspace: Workspace, given: Given) -> Readings | None:
    """Read the results of exported folders; what reads them is loaded only where there are some."""
    if not given.exports:
        return None
    from campaigns.exchange.importing import read_exports

    return read_exports(workspace, given.exports, given.wanted)


def _conductivities(workspace: Workspace, given: Given, report: LabelReport) -> list[EntryOutcome]:
    """Store the labels of ``kappa-*.hdf5``; remarks on a file are returned."""
    if not given.tensors:
        return []
    from campaigns.exchange.importing import add_newest
    from campaigns.exchange.kappa_labels import kappa_labels

    outcomes = []
    for path in given.tensors:
        of_file, said = kappa_labels(workspace, path, given.material_id or "", given.wanted)
        add_newest(workspace, of_file, report)
        outcomes += [EntryOutcome(path.name, given.material_id or "", "done", "; ".join(said))] if said else []
    return outcomes


def _recorded(workspace: Workspace, readings: Readings, report: LabelReport, wanted: Wanted) -> list[EntryOutcome]:
    from campaigns.exchange.importing import record_results

    return record_results(workspace, readings, report, wanted)


def record_label(workspace: Workspace, label: LabelRecord, *, new_property: bool, again: bool) -> ImportReport:
    """Store one label; arguments as of :meth:`Campaign.record`."""
    store = workspace.store
    with workspace.locked(), store.transaction():
        _ = Property(label.property).temperature  # a name with two temperatures is refused here
        names = LabelNames.of(workspace.configuration, store)
        if problems := [] if new_property else names.problems([label], ["label 1"]):
            raise LabelError(problems, 1)
        report = store.add_labels([label], again=again)
        finish_entries(workspace, "label recorded")
        return ImportReport.of(store, report)


def _added(problems: list[LabelProblem], order: Sequence[str], add: Callable[[], LabelReport]) -> LabelReport:
    """Add labels, or raise one error with every problem in the order of the rows, those known before too."""
    try:
        report = add()
    except LabelError as error:
        problems = [*problems, *error.problems]
    if problems:
        position = {place: i for i, place in enumerate(order)}
        raise LabelError(sorted(problems, key=lambda p: position[p.location]), len(position))
    return report
