"""Strategies by name: settings of a campaign, or a peer."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from campaigns.backtest.levels import WANTED
from campaigns.backtest.peers import ALIASES, PEERS
from campaigns.configuration import ModelSection, current_names, parse_configuration, toml_value, warn_of_old_names
from campaigns.configuration.acquisition import AcquisitionSection
from campaigns.exceptions import CampaignError
from campaigns.property_names import Property
from db.records import Json
from engine.acquire.functions import FUNCTIONS
from engine.exceptions import TrainingError
from engine.learning.ensemble.records import RECORD, backbone_parts, model_folder, read_record
from engine.learning.ensemble.settings import FROZEN
from engine.learning.heads.kinds import KINDS, head_kind
from engine.learning.networks import strategies
from engine.learning.networks.strategies import STRATEGIES

if TYPE_CHECKING:
    from campaigns.backtest.protocol import Protocol

DEFAULT = "default"
"""The settings of a new campaign."""
DEFAULT_FUNCTION = AcquisitionSection.model_fields["function"].default
LADDER_FUNCTION = "top_share"
"""Acquisition function of a ladder whose strategy names none that counts fidelities."""
SECTIONS = ("model", "acquisition")
"""Sections of a ``campaign.toml`` that define a strategy; the protocol sets the others."""
ESTIMATES = (("model", "lower_fidelity"), ("acquisition", "first_batch_estimate"))
"""Settings that may name the folder of a trained model."""


@dataclass(frozen=True)
class BacktestStrategy:
    """A named way of choosing labels."""

    name: str
    settings: Mapping[str, Json] | None
    """Sections of ``campaign.toml``; None for a peer."""
    given: str = ""
    """Lower fidelity of which all labels are acquired before the first round."""

    @property
    def is_peer(self) -> bool:
        """Whether it is one of :data:`PEERS`."""
        return self.settings is None

    @property
    def estimates(self) -> list[str]:
        """Folders of the models whose estimates rank its first batch."""
        settings = self.settings or {}
        names = {str(settings.get(section, {}).get(key, "")) for section, key in ESTIMATES}
        return sorted(name for name in names if model_folder(name))


def join(*groups: Sequence[BacktestStrategy]) -> list[BacktestStrategy]:
    """All strategies in order, each name once."""
    return list({strategy.name: strategy for group in groups for strategy in group}.values())


def parse_strategies(text: str) -> list[BacktestStrategy]:
    """``S[,S2]``: ``default``, a head and an acquisition function (``gp-ucb``), a peer, or a ``campaign.toml``.

    An acquisition function alone goes with the default head. Of a file, ``[model]`` and ``[acquisition]`` count, and
    paths in it are relative to it; the strategy has the name of the file without ``.toml``.
    """
    return join([_parse(name.strip()) for name in text.split(",")])


def parse_against(text: str) -> list[BacktestStrategy]:
    """``P[,P2]``: peers, which use the embedding and the acquired labels only."""
    found = [ALIASES.get(name, name) for name in (part.strip() for part in text.split(","))]
    if unknown := [name for name in found if name not in PEERS]:
        raise CampaignError(f"unknown peer {unknown[0]!r}; --against takes {', '.join([*PEERS, *ALIASES])}")
    return [BacktestStrategy(name, None) for name in dict.fromkeys(found)]


def ladder_strategies(base: BacktestStrategy, protocol: Protocol) -> list[BacktestStrategy]:
    """Ways to spend core-hours on several fidelities, each with the settings of ``base``, and random choice.

    ``ladder``: a round chooses material and fidelity. ``single``: labels of the wanted fidelity alone. ``agl-first``
    (one for each level): all labels of that level, then those of the wanted fidelity, learned on top.

    Raises
    ------
    CampaignError
        If ``base`` is a peer, or has a lower fidelity of its own, or starts from a model that is one.
    """
    if start_of(protocol.start)[1]:
        raise CampaignError(
            f"--from {protocol.start_name} is a trained model that members would learn on top of, in place of "
            "--lower-fidelity; give backbones"
        )
    if base.settings is None or base.settings.get("model", {}).get("lower_fidelity"):
        raise CampaignError(
            f"strategy {base.name} cannot learn from --lower-fidelity; give one with Gaussian processes and without "
            "[model] lower_fidelity, such as default"
        )
    own = {section: dict(keys) for section, keys in base.settings.items()}
    acquisition = {**own.get("acquisition", {}), "fidelities": [level.name for level in protocol.levels]}
    if not FUNCTIONS[str(acquisition.get("function", DEFAULT_FUNCTION))].counts_fidelities:
        acquisition["function"] = LADDER_FUNCTION
    first = [
        BacktestStrategy(
            f"{level.name}-first", {**own, "model": {**own.get("model", {}), "lower_fidelity": level.name}}, level.name
        )
        for level in protocol.levels
    ]
    return [
        BacktestStrategy("ladder", {**own, "acquisition": acquisition}),
        BacktestStrategy("single", own),
        *first,
        BacktestStrategy("random", None),
    ]


def campaign_text(
    protocol: Protocol, strategy: BacktestStrategy, seed: int, batch: int, more: Mapping[str, Json] | None = None
) -> str:
    """``campaign.toml`` of one run of this program's strategies; keys of ``more``, by section, replace its own."""
    own = strategy.settings or {}
    backbones, lower = start_of(protocol.start)
    settings: dict[str, Json] = {
        "campaign": {
            "name": f"{strategy.name}-{seed}",
            "goal": protocol.goal,
            "property": protocol.property,
            "unit": Property(protocol.property).unit or "-",
            "scale": protocol.scale,
            "batch": batch,
            "budget": protocol.initial + protocol.batch * protocol.rounds,
            "seed": seed,
        },
        "model": {
            "lower_fidelity": lower,
            **own.get("model", {}),
            "backbone": backbones,
            "members": protocol.members,
        },
        "acquisition": dict(own.get("acquisition", {})),
        "labeler": {"kind": "replay", "source": "backtest"},
    }
    for section, keys in (more or {}).items():
        settings[section] = {**settings.get(section, {}), **keys}
    return "\n".join(
        f"[{section}]\n" + "".join(f"{key} = {toml_value(value)}\n" for key, value in keys.items())
        for section, keys in settings.items()
    )


def start_of(start: str | Sequence[str]) -> tuple[list[str], str]:
    """Backbones of a campaign from ``--from``, and the model that its members are trained on top of.

    A trained model with Gaussian-process members is used as a lower fidelity, on the backbones that it holds.
    """
    names = [start] if isinstance(start, str) else start
    given = [str(Path(name).resolve()) if Path(name).exists() else name for name in names]
    folder = model_folder(given[0])
    if len(given) > 1 or folder is None:
        return given, ""
    record = read_record(folder)
    if not head_kind(record["settings"]["head"]).has_process:
        return given, ""
    return [str((folder / part["path"]).resolve()) for part in backbone_parts(record)], str(folder)


def deciding_settings(protocol: Protocol, strategy: BacktestStrategy) -> Json:
    """Every setting, defaults too, that determines what a strategy of this program queues.

    Raises
    ------
    ConfigurationError
        If they contradict each other.
    """
    text = campaign_text(protocol, strategy, 0, protocol.batch, ladder_settings(protocol, strategy))
    configuration = parse_configuration(text, f"strategy {strategy.name}")
    settings = configuration.model_dump(mode="json", include=set(SECTIONS))
    del settings["model"]["backbone"]  # identified by its hash
    for section, key in ESTIMATES:
        if folder := model_folder(settings[section][key]):
            settings[section][key] = hashlib.sha256((folder / RECORD).read_bytes()).hexdigest()
    return settings | ({"given": strategy.given} if strategy.given else {})


def ladder_settings(protocol: Protocol, strategy: BacktestStrategy, hours: Mapping[str, float] | None = None) -> Json:
    """Sections of ``campaign.toml`` with the cost of each fidelity that a strategy queues; none without levels.

    ``hours`` are core-hours of a label by fidelity; before the records are read, their order stands for them.
    """
    if protocol.label_cost is None:
        return {}
    names = [*(level.name for level in protocol.levels), WANTED]
    hours = hours or {name: place for place, name in enumerate(names, start=1)}
    queued = (strategy.settings or {}).get("acquisition", {}).get("fidelities", ())
    return {"campaign": {"fidelity": WANTED}, "costs": {name: hours[name] for name in (WANTED, *queued)}}


def _parse(name: str) -> BacktestStrategy:
    peer = ALIASES.get(name, name)
    head, _, acquisition = name.rpartition("-")
    if name == DEFAULT:
        return BacktestStrategy(name, {})
    if name.endswith(".toml"):
        return _from_file(Path(name))
    if acquisition in FUNCTIONS and (model := _model_settings(head)):
        return BacktestStrategy(name, {"model": model, "acquisition": {"function": acquisition}})
    if peer in PEERS and peer != "gp":  # a head of this program has that name, too
        return BacktestStrategy(peer, None)
    if name in FUNCTIONS:
        return _parse(f"{ModelSection.model_fields['head'].default}-{name}")
    raise CampaignError(
        f"unknown strategy {name!r}; give {DEFAULT}, random or extra-trees, a campaign.toml, or HEAD-ACQUISITION with "
        f"a head of {', '.join([*_embedding_heads(), *STRATEGIES])} and an acquisition of {', '.join(FUNCTIONS)}, e.g. "
        "gp-ucb"
    )


def _embedding_heads() -> list[str]:
    """Names of the heads that read embeddings, without networks that are fine-tuned."""
    return [kind.name for kind in KINDS.values() if not kind.is_network]


def _model_settings(head: str) -> dict[str, str]:
    """``[model]`` for a head on embeddings or a strategy of networks; empty for other words."""
    if head in _embedding_heads():
        return {"head": head}
    try:
        parsed = str(strategies.parse(head))
        return {"networks": "none" if parsed == FROZEN else parsed}
    except TrainingError:
        return {}


def _from_file(path: Path) -> BacktestStrategy:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CampaignError(f"strategy {path} cannot be read: {error}") from error
    if path.stem in PEERS:
        raise CampaignError(f"strategy {path} has the name of the peer {path.stem!r}; rename the file")
    content, renamed = current_names(content, f"strategy {path}")
    warn_of_old_names(renamed, f"strategy {path}")
    settings = {section: dict(content[section]) for section in SECTIONS if section in content}
    for section, key in ESTIMATES:
        folder = settings.get(section, {}).get(key, "")
        if folder and (path.parent / folder).is_dir():
            settings[section][key] = str((path.parent / folder).resolve())
    return BacktestStrategy(path.stem, settings)
