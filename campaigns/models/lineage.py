"""How a campaign's model was made, as models of the store: first weights, stages, a cheaper fidelity, a round's own.

A backbone's card has its stages; each becomes a model once, with the one before it as parent, so that the lineage of a
round's model is a chain of rows with the metrics of every stage.
"""

from __future__ import annotations

import hashlib
import shutil
from typing import TYPE_CHECKING

from campaigns.files import share_copies
from campaigns.property_families import canonical, family
from campaigns.version import code_version
from db.records import Json, MemberRecord, ModelRecord
from engine.learning.ensemble.records import SEEN_DIGITS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from pathlib import Path

    from campaigns.round.context import RoundContext
    from db.store import Store
    from engine.learning.backbones.part import BackbonePart
    from engine.learning.backbones.stack import AnyBackbone
    from engine.learning.ensemble.ensemble import Ensemble

START, STAGE, LOWER_FIDELITY, ROUND = "start", "stage", "lower_fidelity", "round"
"""Kinds: weights that others made, a stage that led from one backbone to the next, a lower fidelity's model, a
round's."""
_LOWER = "lower-fidelity"
_OLD_NAME = "prior"
"""Kind of a lower fidelity's model, and the beginning of its id, in older stores."""


def kind_of(record: ModelRecord) -> str:
    """Kind of a model in the store; models stored before kinds existed are of rounds."""
    kind = str(record.stage.get("kind", ROUND))
    return LOWER_FIDELITY if kind == _OLD_NAME else kind


def keep_ancestors(context: RoundContext, ensemble: Ensemble, folder: Path) -> list[str]:
    """Store once what a round's model in ``folder`` was made from; ids of the models that it stands on.

    The first is its parent: the model of a cheaper fidelity, where it has one, and the backbones.
    """
    known = {record.model_id for record in context.store.models()}
    records: list[ModelRecord] = []
    backbones = []
    for part in ensemble.backbone.parts:
        chain = backbone_records(part, f"artifacts/backbones/{part.sha256[:32]}")
        records += chain
        backbones.append(chain[-1].model_id)
    stands_on = list(backbones)
    if ensemble.lower_fidelity is not None:
        where = context.workspace.relative(folder / _LOWER)
        lower = _lower_fidelity(ensemble.lower_fidelity, folder / _LOWER, where, backbones, known)
        models = context.workspace.artifacts / "models"  # its labels change in few rounds, and it is large
        share_copies(folder / _LOWER, [*models.glob(f"{_LOWER}/*"), *models.glob(f"*/{_LOWER}")])
        records.append(lower)
        stands_on.insert(0, lower.model_id)
    each: dict[str, ModelRecord] = {}
    for record in records:  # a backbone of a mixture may also be what another of it began as, without weights there
        if record.model_id not in each or record.members:
            each[record.model_id] = record
    for record in each.values():
        if record.model_id not in known:
            context.store.add_model(record)
    return stands_on


def keep_model(context: RoundContext, ensemble: Ensemble) -> ModelRecord:
    """Write a round's model to ``artifacts/models``, and say for the store how it was made."""
    from engine.learning.ensemble.storage import save_ensemble

    workspace = context.workspace
    model_id = f"round-{context.record.number:03d}-{ensemble.data_hash[:8]}"
    folder = workspace.artifacts / "models" / model_id
    shutil.rmtree(folder, ignore_errors=True)  # what a killed run left: its files may be others' too
    record = save_ensemble(ensemble, folder, workspace.artifacts / "backbones")
    where = workspace.relative(folder)
    stands_on = keep_ancestors(context, ensemble, folder)
    return ModelRecord(
        model_id=model_id,
        parent_id=stands_on[0],
        stage={
            "kind": ROUND,
            "backbone": record["backbone"]["name"],
            "stands_on": stands_on,
            "files": recorded_files(folder, where),
            "lineage": ensemble.backbone.card.get("lineage", []),
        },
        backbone_hash=ensemble.backbone.sha256,
        data_hash=ensemble.data_hash,
        settings={"property": ensemble.property, "scale": ensemble.scale, **record["settings"]},
        seeds=tuple(m["seed"] for m in record["members"]),
        code_version=code_version(),
        metrics=ensemble.metrics,
        members=_members(record, where),
    )


def recorded_files(folder: Path, where: str) -> list[dict[str, str]]:
    """Files of a model in ``folder`` beside its members: its record, networks that are blended in, distances.

    ``where`` is the folder relative to the campaign. The record's own hash is kept too: it has the calibration.
    """
    from engine.learning.ensemble.records import RECORD, read_record

    own = {"path": RECORD, "sha256": hashlib.sha256((folder / RECORD).read_bytes()).hexdigest()}
    return [{**file, "path": f"{where}/{file['path']}"} for file in (own, *read_record(folder)["files"])]


def whole_lineage(store: Store, model_id: str) -> list[ModelRecord]:
    """All that led to a model, itself last: the chain of its parents, and those of other backbones it stands on."""
    chain = store.lineage(model_id)
    beside = [id_ for record in chain for id_ in record.stage.get("stands_on", ()) if id_ != record.parent_id]
    found = {r.model_id: r for id_ in beside for r in store.lineage(id_)} | {r.model_id: r for r in chain}
    return list(found.values())


def backbone_records(backbone: BackbonePart, folder: str) -> list[ModelRecord]:
    """Stages of a backbone, oldest first, each with the one before as parent; only the last has its weights here.

    ``folder`` is the backbone's, relative to the campaign. What a potential has learned is not known, and its stage
    says so.
    """
    stages: Sequence[Json] = backbone.card.get("lineage", [])
    # a stage knows what it started from: what it made is what the next one started from
    made = [(str(s["start"]), str(s.get("start_sha256", ""))) for s in stages] + [(backbone.name, backbone.sha256)]
    unknown = {key: backbone.card[key] for key in ("training_data",) if key in backbone.card}
    records: list[ModelRecord] = []
    for number, (name, sha256) in enumerate(made):
        stage = stages[number - 1] if number else {}
        if not number and stages and name.startswith("scratch"):
            continue  # nothing was learned yet
        last = number == len(made) - 1
        seeds = (int(stage["seed"]),) if "seed" in stage else ()
        records.append(
            ModelRecord(
                model_id=f"{name.replace('/', '-')}-{(sha256 or str(stage.get('data_hash', '')))[:8]}",
                parent_id=records[-1].model_id if records else None,
                stage={"kind": STAGE if stage else START, "backbone": name, **unknown, **stage},
                backbone_hash=sha256,
                data_hash=str(stage.get("data_hash", "")),
                settings={key: stage[key] for key in ("properties", "strategy", "fidelity", "loss") if key in stage},
                seeds=seeds,
                metrics={"held_out": stage.get("held_out", {})},
                members=(MemberRecord(0, next(iter(seeds), 0), f"{folder}/{backbone.vouched}", sha256),)
                if last
                else (),
            )
        )
    return records


def answers_seen(backbone: AnyBackbone, property: str, hashes: Iterable[str]) -> str:
    """Warning of labels, or ones of the same calculation, that a backbone was trained on; empty if there are none.

    Errors on held-out rows (by content hash) are then too good: the heads have not seen these rows, the backbone has.
    """
    keys = {key[:SEEN_DIGITS] for key in hashes}
    met = {name: len(keys.intersection(prefixes)) for name, prefixes in backbone.card.get("seen", {}).items()}
    if not any(met.values()):
        return ""
    group = family(property)
    told = [
        f"{name} of {count}"
        for name, count in met.items()
        if count and (canonical(name) == canonical(property) or (group and family(name) == group))
    ]
    if not told:
        return ""
    return (
        f"warning: backbone {backbone.name} has learned {', '.join(told)} of these {len(keys)} crystals, so that "
        "cross-validated errors are too good; compare models by labels that none has seen"
    )


def stage_row(record: ModelRecord) -> Json:
    """One line of a lineage: a stage with what it learned, on which data, and how well."""
    table = record.metrics.get("held_out", {})
    judged = record.metrics.get("model", {})
    known = {name: row for name, row in table.items() if row.get("mae") is not None}
    errors = {name: {k: round(row[k], 4) for k in ("mae", "spearman") if row.get(k) is not None}
              for name, row in known.items()}  # fmt: skip
    own = {record.settings.get("property", ""): {k: judged[k] for k in ("mae", "spearman") if k in judged}}
    return {
        "model": record.model_id,
        "kind": kind_of(record),
        "stage": record.stage.get("stage"),
        "parent": record.parent_id,
        "labels": record.metrics.get("labels", sum(row.get("labels_trained", 0) for row in table.values()) or None),
        "strategy": record.settings.get("strategy"),
        "seeds": ", ".join(map(str, record.seeds)),
        "data_hash": record.data_hash[:12],
        "weights": record.backbone_hash[:12],
        "errors": errors or (own if judged else None),
    }


def _lower_fidelity(
    lower: Ensemble, folder: Path, where: str, backbones: list[str], known: Collection[str]
) -> ModelRecord:
    """Record of a lower fidelity's model, under the id that an earlier version may have stored it with."""
    from engine.learning.ensemble.records import read_record

    record = read_record(folder)
    hashes = f"{lower.backbone.sha256[:8]}-{lower.data_hash[:8]}"
    return ModelRecord(
        model_id=old if (old := f"{_OLD_NAME}-{hashes}") in known else f"{_LOWER}-{hashes}",
        parent_id=backbones[0],
        stage={
            "kind": LOWER_FIDELITY,
            "backbone": lower.backbone.name,
            "stands_on": backbones,
            "files": recorded_files(folder, where),
        },
        backbone_hash=lower.backbone.sha256,
        data_hash=lower.data_hash,
        settings={"property": lower.property, "scale": lower.scale, **record["settings"]},
        seeds=tuple(m["seed"] for m in record["members"]),
        metrics=lower.metrics,
        members=_members(record, where),
    )


def _members(record: Json, where: str) -> tuple[MemberRecord, ...]:
    """Members of a model in the folder ``where``, from its own record."""
    return tuple(
        MemberRecord(k, m["seed"], f"{where}/{m['path']}", m["sha256"], {"held_out_rmse": m["noise"]})
        for k, m in enumerate(record["members"])
    )
