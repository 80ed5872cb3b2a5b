"""A campaign directory is made: a commented ``campaign.toml`` and an empty store."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from campaigns.configuration import FILE, parse_configuration
from campaigns.exceptions import CampaignError
from campaigns.files import write_whole
from campaigns.property_names import Property
from campaigns.workspace import store_url
from db.records import CampaignRecord
from db.store import Store


def filled_template(template: str, directory: Path, goal: str, property: str, **values: Any) -> str:
    """Text of a new ``campaign.toml``; ``values`` fill the template's other blanks in place of their defaults."""
    given = {
        "name": directory.resolve().name,
        "goal": goal,
        "property": property,
        "unit": Property(property).unit,
        "fidelity": "dft",
        "batch": 20,
        "budget": 200,
        "labeler": "dft",
        "replay": "",
    } | values
    # a JSON string is a TOML string; "replay" is a line of TOML already
    filled = {k: v if k == "replay" else json.dumps(v, ensure_ascii=False) for k, v in given.items()}
    return _template(template).format(**filled)


def create_directory(directory: Path, text: str) -> None:
    """Make a campaign directory from the text of its ``campaign.toml``, which is written last and vouches for it all.

    Raises
    ------
    CampaignError
        If there is one already, or the directory cannot be written to.
    """
    path = directory / FILE
    if path.exists():
        raise CampaignError(f"{path} exists already; choose another directory, or edit it to change the campaign")
    configuration = parse_configuration(text, str(path))
    section = configuration.campaign
    try:
        directory.mkdir(parents=True, exist_ok=True)
        patience = configuration.store.timeout
        with Store.open(store_url(configuration, directory), create=True, timeout=patience) as store:
            left = [] if configuration.store.url else [c.name for c in store.campaigns()]
            if section.name not in left:  # an earlier attempt may have been killed here
                store.create_campaign(CampaignRecord(section.name, section.goal, section.property, seed=section.seed))
        write_whole(path, text)
    except OSError as error:
        raise CampaignError(f"cannot write to {directory} ({error.strerror}); choose a directory of yours") from error


def _template(name: str) -> str:
    folder = resources.files("campaigns") / "templates"
    path = folder / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml")))
        raise CampaignError(f"no template {name!r}; there are: {known}")
    return path.read_text(encoding="utf-8")
