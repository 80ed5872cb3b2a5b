"""A campaign: one directory, one objective, one pool, a budget, and the methods that a user calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from campaigns.configuration import NEW_PRESET, campaign_toml
from campaigns.creation import create_directory, warm_start
from campaigns.intake.label_names import check_new_property
from campaigns.labelers.labelers import Labeler, make_labeler
from campaigns.property_names import Property
from campaigns.queue import defer, fail, move, reopen, retry
from campaigns.views import CampaignViews
from campaigns.workspace import Workspace
from db.records import LabelRecord, QueueEntryRecord
from db.states import FailureReason, QueueState

if TYPE_CHECKING:
    from campaigns.exchange.import_labels import ImportReport
    from campaigns.intake.ingest_report import IngestReport
    from campaigns.intake.label_fields import LabelField
    from campaigns.loop import RunReport
    from campaigns.stability.request import RelaxReport, RelaxRequest
    from engine.learning.backbones.stack import AnyBackbone


class Campaign(CampaignViews):
    """An open campaign directory; close it, or use it as a context manager.

    The directory holds ``campaign.toml``, the store and ``artifacts/`` (graphs, embeddings, models, predictions), and
    may be copied to another machine.
    """

    def __init__(self, workspace: Workspace, labeler: Labeler | None = None):
        """``labeler`` replaces the one that ``campaign.toml`` names."""
        self.workspace = workspace
        if labeler is not None:
            self.labeler = labeler

    @classmethod
    def create(
        cls,
        directory: Path | str,
        goal: Literal["min", "max"] = "min",
        property: str = "kappa_300K",
        template: str = "default",
        settings: Mapping[str, Mapping[str, object]] | None = None,
        warm: bool = True,
        new_property: bool = False,
        **values: object,
    ) -> Campaign:
        """Make a new campaign with a commented ``campaign.toml``; an existing one is never touched.

        ``settings`` are further settings by section, and ``values`` those of ``[campaign]``. With ``warm``, a campaign
        for kappa at 300 K begins with the shipped model of first-principles values, as ``kappascout init`` does, unless
        its ``[model]`` settings name a backbone, a head or a lower fidelity.

        Raises
        ------
        CampaignError
            If there is a campaign already, or ``property`` is close to a name of kappa, without ``new_property``.
        """
        if not new_property:
            check_new_property(property)
        directory = Path(directory)
        given = {
            "name": directory.resolve().name,
            "goal": goal,
            "property": property,
            "unit": Property(property).unit,
        }
        sections = {**(settings or {}), "campaign": given | values}
        model = sections.get("model", {})
        if warm and not model.keys() & {"backbone", "head", "lower_fidelity"}:
            sections["model"] = {**warm_start(property), **model}
        sections["dft"] = {"preset": NEW_PRESET, **sections.get("dft", {})}
        text = campaign_toml(sections, template)
        return cls.create_from(directory, text)

    @classmethod
    def create_from(
        cls, directory: Path, text: str, labeler: Labeler | None = None, features: Path | None = None
    ) -> Campaign:
        """Make a new campaign from the text of its ``campaign.toml``, which is written last, once all is there.

        ``labeler`` and ``features`` as in :meth:`open`.
        """
        create_directory(directory, text)
        return cls.open(directory, labeler, features)

    @classmethod
    def open(cls, directory: Path | str, labeler: Labeler | None = None, features: Path | None = None) -> Campaign:
        """Open an existing campaign and check its settings.

        Parameters
        ----------
        directory
            The campaign's.
        labeler
            Labeler used in place of the one that ``campaign.toml`` names.
        features
            Folder of graphs and embeddings, ``artifacts`` by default; campaigns on the same crystals may share one.
        """
        return cls(Workspace.open(Path(directory), features), labeler)

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    def __enter__(self) -> Campaign:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @cached_property
    def labeler(self) -> Labeler:
        """Labeler that ``campaign.toml`` names."""
        return make_labeler(self.configuration, self.directory)

    def backbone(self, names: str | Sequence[str]) -> AnyBackbone:
        """Load a checked backbone by name, or by a path relative to the campaign directory; or several side by side."""
        return self.workspace.backbone(names)

    def locked(self) -> AbstractContextManager[None]:
        """Lock that keeps other processes from changing the campaign; a second one raises an error."""
        return self.workspace.locked()

    # -- crystals and labels -------------------------------------------------------------------------------------------

    def ingest(
        self,
        sources: Sequence[str],
        labels: Sequence[LabelField] = (),
        workers: int | None = None,
        say: Callable[[str], None] = lambda _: None,
        new_property: bool = False,
    ) -> IngestReport:
        """Add candidates from files, folders, archives, built-in sets or databases; see :func:`ingest`.

        A property or fidelity of ``labels`` whose name is close to a known one is refused, unless ``new_property``.
        """
        from campaigns.intake.into_campaign import ingest_checked

        return ingest_checked(self.workspace, sources, labels, workers, say, new_property=new_property)

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
        """Import labels and results; queue entries with a new label are done.

        Files of labels (CSV, JSON lines) and ``kappa-*.hdf5`` are stored all or none. Folders and archives of exports
        are read as far as they are finished: entries that ended are done or failed, those that differ from the
        export are refused one by one. Importing again changes nothing.

        Parameters
        ----------
        paths
            Files of labels, ``kappa-*.hdf5``, folders and archives that an export wrote.
        material_id
            Material that the ``kappa-*.hdf5`` belong to.
        temperatures
            Temperatures in kelvin to store besides that of the campaign's property.
        as_method
            Name for conductivities of another method than exported, stored as separate labels; without it they
            are refused.
        force
            Accept conductivities that do not seem to belong to their crystal; the provenance notes it.
        new_property
            Accept a property or fidelity although its name is close to a known one.
        again
            Store labels of files that were withdrawn with the same value, rather than skip them.

        Raises
        ------
        LabelError
            With every bad row of every file.
        ExchangeError
            If a ``kappa-*.hdf5`` is refused.
        """
        from campaigns.exchange.import_labels import Given, import_labels
        from campaigns.exchange.wanted import Wanted

        given = Given.of(paths, material_id, Wanted(tuple(temperatures), as_method, force))
        return import_labels(self.workspace, given, new_property=new_property, again=again)

    def record(
        self, material_id: str, value: float, *, new_property: bool = False, again: bool = False, **fields: Any
    ) -> ImportReport:
        """Record one label of the campaign's property from a notebook; ``fields`` as in :class:`LabelRecord`.

        ``new_property`` and ``again`` as in :meth:`import_labels`.
        """
        from campaigns.exchange.import_labels import record_label

        section = self.configuration.campaign
        values = {"property": section.property, "unit": section.unit, "fidelity": section.fidelity} | fields
        label = LabelRecord(material_id=material_id, value=value, **values)
        return record_label(self.workspace, label, new_property=new_property, again=again)

    def withdraw_labels(
        self, ids: Sequence[int | str], reason: str, property: str | None = None, fidelity: str | None = None
    ) -> list[LabelRecord]:
        """Withdraw labels: they stay in the store with who, when and why, and are no longer used.

        The queue entries they answered stay done; a material without another label of the campaign's property and
        fidelity is a candidate again.

        Parameters
        ----------
        ids
            Ids of labels; with ``property`` or ``fidelity``, ids of materials whose labels of these are withdrawn.
        reason
            Why.
        property, fidelity
            Which labels of the materials; the campaign's own for the one that is not given.

        Raises
        ------
        CampaignError
            If a material has no such label, or an id is not that of a label.
        """
        from campaigns.intake.withdrawal import withdraw_labels

        return withdraw_labels(self.workspace, ids, reason, property, fidelity)

    def candidates_again(self, labels: Sequence[LabelRecord]) -> list[str]:
        """Which of these labels' materials lack a label of the campaign's property and fidelity, and may be queued."""
        from campaigns.intake.withdrawal import candidates_again

        return candidates_again(self.workspace, labels)

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(
        self,
        rounds: int | None = None,
        say: Callable[[str], None] = lambda text: None,
        *,
        wait: bool = True,
        go_on: bool = False,
    ) -> RunReport:
        """Do as many rounds as the labeler, the budget and ``rounds`` allow, continuing where an earlier run ended.

        Where ``[stopping] action`` is ``stop``, no round starts once stopping is advised, unless ``go_on``.
        With ``wait=False`` a new round (or as many as ``rounds``) starts although results of the last are pending;
        pending entries are conditioned on and not queried again.
        """
        from campaigns.loop import Loop

        with self.locked():  # a replay without answers fails here, before anything expensive
            return Loop(self.workspace, self.labeler, say).run(rounds, wait, go_on)

    # -- stability ----------------------------------------------------------------------------------------------------

    def relax(self, request: RelaxRequest, say: Callable[[str], None] = lambda text: None) -> RelaxReport:
        """Relax materials with a potential; their figures become properties; see :func:`relax_materials`."""
        from campaigns.stability.relaxing import relax_materials

        return relax_materials(self.workspace, request, say)

    # -- the queue ----------------------------------------------------------------------------------------------------

    def move(
        self, ids: Sequence[str], to: QueueState, note: str = "", fidelity: str | None = None
    ) -> list[QueueEntryRecord]:
        """Approve or withdraw the unfinished entries of these materials; without ids, all that can.

        A material may have entries of several fidelities; ``fidelity`` takes those of one.
        """
        return move(self.workspace, ids, to, note, fidelity)

    def fail(self, ids: Sequence[str], reason: FailureReason, message: str = "") -> list[QueueEntryRecord]:
        """Record that the calculations of these materials failed; their queue entries are failed."""
        return fail(self.workspace, ids, reason, message)

    def retry(
        self, ids: Sequence[str] | None, note: str = "", *, force: bool = False, fidelity: str | None = None
    ) -> list[QueueEntryRecord]:
        """Approve again entries that failed by the machine, all for ``None``; see :func:`campaigns.queue.retry`."""
        return retry(self.workspace, ids, note, force=force, fidelity=fidelity)

    def reopen(
        self, ids: Sequence[str], note: str = "", *, approve: bool = False, fidelity: str | None = None
    ) -> list[QueueEntryRecord]:
        """Propose again failed, withdrawn or deferred entries; see :func:`campaigns.queue.reopen`."""
        return reopen(self.workspace, ids, note, approve=approve, fidelity=fidelity)

    def defer(self, ids: Sequence[str], note: str = "", fidelity: str | None = None) -> list[QueueEntryRecord]:
        """Leave entries out of their round; the next may choose their materials again."""
        return defer(self.workspace, ids, note, fidelity)
