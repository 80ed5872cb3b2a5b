"""Labeler that calculates, on this machine or a Dask cluster; labels and failures are stored one by one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, TypeVar

from pydantic import TypeAdapter, ValidationError

from campaigns.exceptions import ConfigurationError
from campaigns.exchange.calculation import natural_masses
from campaigns.files import python_beside
from campaigns.labelers.born_folder import BornFolder
from campaigns.property_names import named_temperature
from campaigns.version import code_version
from db.labels import beyond
from db.records import KAPPA_UNIT, FailureRecord, Json, LabelRecord, MaterialRecord, QueueEntryRecord
from db.states import FailureReason, QueueState
from engine.exceptions import BornChargesError
from engine.materials.crystal import Crystal, isotopes_of
from engine.physics.outcome import Calculated, Failed
from engine.physics.workers import Finished

if TYPE_CHECKING:
    from campaigns.configuration import Configuration, LabelerSection
    from campaigns.goals import Goal
    from db.store import Store
    from engine.physics.born_charges import PolarCrystal
    from engine.physics.debye import DebyeSettings
    from engine.physics.outcome import Outcome
    from engine.physics.phonon_settings import PhononSettings
    from engine.physics.workers import Calculation

_Settings = TypeVar("_Settings", "DebyeSettings", "PhononSettings")
_NOTED = 0.01
"""Elementary charges; smaller changes of Born charges are rounding."""
_OURS = (QueueState.APPROVED, QueueState.RUNNING)
_OF_THE_CRYSTAL = {"timed_out": FailureReason.TOO_LONG, "calculator_error": FailureReason.CRASHED}
"""Reasons that mean the machine for a job elsewhere; here other crystals finish in the same processes."""


class _About(TypedDict):
    """What a label and a failure of one calculation have in common."""

    material_id: str
    property: str
    fidelity: str
    source: str
    provenance: Json
    cost: float


class Calculator:
    """Calculates what is queued, in processes with a time limit; results are stored one by one.

    The processes are ``[labeler] workers`` of this machine, or beside the workers of ``[execution] backend = "dask"``.
    A material with a label or failure in the store is not calculated again, so the program may be killed and run
    again at any time. Exported entries are not calculated here.
    """

    def __init__(
        self,
        configuration: Configuration,
        calculation: Calculation,
        potential: str,
        settings_hash: str,
        described: Mapping[str, str] | None = None,
        born: BornFolder | None = None,
    ):
        """Labeler with a calculation for a crystal, and the potential as of :func:`load_potential`.

        ``described`` is what the potential says of itself; labels of the same potential in another version, or with
        other weights, are then not joined by new ones. ``born`` has Born charges of some materials.
        """
        self._campaign = configuration.campaign
        self._labeler = configuration.labeler
        self._execution = configuration.execution
        self._calculation = calculation
        self._potential = potential
        self._settings_hash = settings_hash
        self._described = described or {}
        self._born = born

    def work(self, store: Store, entries: Sequence[QueueEntryRecord], say: Callable[[str], None]) -> None:
        """Approve, calculate and finish every entry that has no label yet."""
        kind = self._labeler.kind
        labels = store.labels(self._campaign.property, self._campaign.fidelity)
        labelled = {label.material_id for label in labels}
        wanted = {
            e.material_id: e
            for e in entries
            if e.state in (QueueState.PROPOSED, *_OURS) and e.material_id not in labelled
        }
        if not wanted:
            return
        self._compare_potentials(labels, say)
        with store.transaction():
            self._move(store, [e for e in wanted.values() if e.state is QueueState.PROPOSED], QueueState.APPROVED)
            self._move(store, [e for e in wanted.values() if e.state is not QueueState.RUNNING], QueueState.RUNNING)
        materials = {m.material_id: m for m in store.materials(list(wanted))}
        refused = {id_: natural_masses(isotopes) for id_, m in materials.items() if (isotopes := isotopes_of(m.bucket))}
        charged = self._with_charges(materials, refused, say) if self._born else {}
        for id_, message in refused.items():
            self._keep(store, wanted[id_], Finished(id_, Failed("rejected", message), 0.0))
            say(f"{kind}: {id_} is not calculated, {message}")
        crystals = (
            (id_, charged.get(id_) or Crystal.from_dict(materials[id_].structure))
            for id_ in wanted
            if id_ not in refused
        )
        with closing(self._results(crystals)) as results:  # ends the processes, also after an error
            for done, finished in enumerate(results, len(refused) + 1):
                self._keep(store, wanted[finished.key], finished)
                about = f"{materials[finished.key].formula}, {_in_words(finished)} ({finished.wall_seconds:.0f} s)"
                say(f"{kind} {done} of {len(wanted)}: {about}")

    def hit_rate(self, hit: float, goal: Goal) -> float | None:
        """None: not known."""
        return None

    def _with_charges(
        self, materials: Mapping[str, MaterialRecord], refused: dict[str, str], say: Callable[[str], None]
    ) -> dict[str, PolarCrystal]:
        """Crystals with Born charges; those whose file cannot be used join ``refused``."""
        from engine.physics.born_charges import PolarCrystal

        assert self._born is not None
        kind = self._labeler.kind
        found: dict[str, PolarCrystal] = {}
        for id_, material in materials.items():
            if id_ in refused:
                continue
            names = [id_, *(source.record_id for source in material.sources)]
            try:
                crystal = self._born.with_charges(Crystal.from_dict(material.structure), names)
            except BornChargesError as error:
                refused[id_] = str(error)
                continue
            if isinstance(crystal, PolarCrystal):
                found[id_] = crystal
                if crystal.charges_change > _NOTED:
                    say(
                        f"{kind}: Born charges of {id_} broke symmetry or did not add up to zero, and were corrected "
                        f"by up to {crystal.charges_change:.3f} e"
                    )
        say(
            f"{kind}: {len(found)} of {len(materials)} materials have Born charges; the others are "
            "calculated without the non-analytical correction, and their method says so"
        )
        return found

    def _compare_potentials(self, labels: Sequence[LabelRecord], say: Callable[[str], None]) -> None:
        """Report labels of other potentials; refuse to join those of this one in another version.

        Raises
        ------
        ConfigurationError
            If labels were calculated with this potential in another version, or with other weights or settings.
        """
        before = [label.provenance.get("potential") for label in labels]
        others = [one for one in before if isinstance(one, dict) and one.get("sha256") != self._described.get("sha256")]
        if not self._described or not others:
            return
        name, where = self._described["name"], f"labels of {self._campaign.property} at {self._campaign.fidelity}"
        for one in others:
            if one.get("name") == name:
                keys = [key for key in {**one, **self._described} if key not in ("name", "sha256", "environment")]
                changes = [
                    f"{key} {one.get(key, 'unknown')}, now {self._described.get(key, 'unknown')}"
                    for key in keys
                    if one.get(key) != self._described.get(key)
                ]
                raise ConfigurationError(
                    f"{where} were calculated with another {name} ({'; '.join(changes) or 'other settings'}), and its "
                    "numbers must not mix with theirs; restore that version, withdraw those labels (`kappascout label "
                    "withdraw`), or calculate at another fidelity"
                )
        names = ", ".join(sorted({str(one.get("name")) for one in others}))
        say(f"{self._labeler.kind}: {len(others)} {where} are of {names}; those of {name} join them")

    def _results(self, crystals: Iterator[tuple[str, Crystal]]) -> Generator[Finished, None, None]:
        from engine.execution import executor
        from engine.physics.workers import calculate_all, calculate_on

        what, limit = (self._calculation, self._potential), self._labeler.time_limit
        if self._execution.backend == "local":
            yield from calculate_all(crystals, *what, self._labeler.workers, limit, self._labeler.devices)
            return
        with executor(self._execution.settings()) as run:
            yield from calculate_on(run, crystals, *what, limit)

    def _keep(self, store: Store, entry: QueueEntryRecord, finished: Finished) -> None:
        outcome = self._of_one_version(finished.outcome)
        about: _About = {
            "material_id": entry.material_id,
            "property": self._campaign.property,
            "fidelity": entry.fidelity,
            "source": self._source(),
            "provenance": outcome.provenance
            | {"settings_hash": self._settings_hash, "wall_seconds": round(finished.wall_seconds, 3)},
            # a process that was killed cannot report its cost
            "cost": (outcome.core_seconds or finished.wall_seconds) / 3600,
        }
        with store.transaction():
            if isinstance(outcome, Calculated):
                label = LabelRecord(
                    value=outcome.kappa,
                    unit=KAPPA_UNIT,
                    temperature=outcome.temperature,
                    method=outcome.method,
                    **about,
                )
                limit = beyond(label.property, label.value, store.label_limits)
                if not limit:
                    # a query after a withdrawal is answered again
                    store.add_labels([label], again=True)
                    self._move(store, [entry], QueueState.DONE)
                    return
                reason, message = FailureReason.REJECTED, f"{label.value:g} {label.unit} is {limit}"
            else:
                reason, message = stored_reason(outcome), outcome.message
            store.add_failures([FailureRecord(reason=reason, message=message, method=self._labeler.kind, **about)])
            self._move(store, [entry], QueueState.FAILED, f"{reason}: {message}")

    def _of_one_version(self, outcome: Outcome) -> Outcome:
        """The outcome; a failure instead if the potential's package or weights changed since the work began."""
        used = outcome.provenance.get("potential")
        if not isinstance(outcome, Calculated) or not self._described or not isinstance(used, dict):
            return outcome
        if used["sha256"] == self._described["sha256"]:
            return outcome
        message = (
            f"calculated with {_version(used)} of {used['name']}, which was {_version(self._described)} when the work "
            "began; its value is not mixed with the others"
        )
        return Failed("rejected", message, outcome.provenance, outcome.core_seconds)

    def _source(self) -> str:
        from engine.physics.calculator_specs import short_name

        return f"kappascout {code_version()}, {self._labeler.kind}, {short_name(self._potential)}"

    def _move(self, store: Store, entries: Sequence[QueueEntryRecord], to: QueueState, note: str = "") -> None:
        store.move([e.id for e in entries if e.id is not None], to, self._labeler.kind, note)


def stored_reason(failed: Failed) -> FailureReason:
    """Reason in the store: calculated again here, with the same limit, a crystal would hang or crash again."""
    if not failed.from_outside and failed.reason in _OF_THE_CRYSTAL:
        return _OF_THE_CRYSTAL[failed.reason]
    return FailureReason[failed.reason.upper()]


def make_calculator(configuration: Configuration, directory: Path) -> Calculator:
    """Make the labeler of kind ``agl`` or ``phonons``; loads the potential once, so that an error is raised here."""
    from engine.exceptions import PotentialError
    from engine.physics.calculator_specs import with_options, with_python
    from engine.physics.potentials import load_potential

    labeler = configuration.labeler
    beside = directory / labeler.potential
    spec = str(beside.absolute()) if beside.exists() else labeler.potential
    calculation, settings = _calculation(labeler, named_temperature(configuration.campaign.property))
    try:
        spec = with_python(
            with_options(spec, labeler.potential_options), python_beside(directory, labeler.potential_python)
        )
        potential = load_potential(spec, device=_device(configuration))
    except PotentialError as error:
        raise ConfigurationError(f"[labeler] potential = {labeler.potential!r}: {error}") from error
    born = BornFolder(directory / labeler.born) if labeler.born else None
    described = potential.describe()
    decides = {"kind": labeler.kind, "settings": settings, "potential": described}
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
    return Calculator(configuration, calculation, spec, digest, described, born)


def _device(configuration: Configuration) -> str:
    """Kind of the devices of ``[labeler]``; "" for none."""
    from engine.physics.devices import kind_of, require_devices

    labeler = configuration.labeler
    if labeler.devices and configuration.execution.backend != "local":
        raise ConfigurationError(
            "[labeler] devices are those of this machine, and [execution] backend = 'dask' calculates elsewhere; leave "
            "them out, and start each worker of Dask with the CUDA_VISIBLE_DEVICES of its own"
        )
    # what torch finds here says nothing of another environment
    return (
        kind_of(labeler.devices[0])
        if labeler.potential_python and labeler.devices
        else require_devices(labeler.devices)
    )


def _calculation(labeler: LabelerSection, temperature: float) -> tuple[Calculation, dict[str, object]]:
    """The calculation with its settings, and the settings as JSON."""
    if labeler.kind == "agl":
        from engine.physics.debye import DebyeSettings, calculate_kappa

        debye = _with_settings(DebyeSettings, labeler.settings, temperature)
        return partial(calculate_kappa, settings=debye), asdict(debye)
    from engine.physics.phonon_settings import PhononSettings
    from engine.physics.phonons import calculate_kappa as calculate_phonons

    phonons = _with_settings(PhononSettings, labeler.settings, temperature)
    return partial(calculate_phonons, settings=phonons), asdict(phonons)


def _with_settings(kind: type[_Settings], changed: Mapping[str, object], temperature: float) -> _Settings:
    """Check what ``campaign.toml`` changes in a calculation's settings; the temperature is the property's."""
    known = [f.name for f in fields(kind) if f.name != "temperature"]
    if unknown := sorted(set(changed) - set(known)):
        raise ConfigurationError(f"[labeler.settings] has no {', '.join(unknown)}; there are {', '.join(known)}")
    try:
        return TypeAdapter(kind).validate_python({"temperature": temperature, **changed})
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, p['loc']))}: {p['msg']}".removeprefix(": ") for p in error.errors()]
        raise ConfigurationError(f"[labeler.settings] {'; '.join(problems)}") from error


def _version(described: Mapping[str, str]) -> str:
    return f"{described.get('package', 'the package')} {described.get('version', described['sha256'][:12])}"


def _in_words(finished: Finished) -> str:
    outcome = finished.outcome
    if isinstance(outcome, Failed):
        return f"failed, {outcome.reason}: {outcome.message}"
    size = outcome.provenance.get("force_batch_halved_to")
    memory = f", forces of {size} supercells at once: more are out of memory" if size else ""
    return f"kappa {outcome.kappa:.3g} {KAPPA_UNIT}{memory}"
