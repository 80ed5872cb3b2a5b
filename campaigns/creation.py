"""Creation of a campaign directory: a commented ``campaign.toml`` and an empty store."""

from __future__ import annotations

from pathlib import Path

from campaigns.configuration import FILE, parse_configuration
from campaigns.exceptions import CampaignError
from campaigns.files import write_whole
from campaigns.workspace import store_url
from db.records import CampaignRecord
from db.store import Store

WARM_START = "kappa-300K"
"""Shipped model of first-principles conductivity at 300 K."""


def warm_start(property_: str, model: str = WARM_START) -> dict[str, object]:
    """``[model]`` settings of a campaign that begins with the shipped model; none for any other property."""
    from campaigns.property_families import is_same_property
    from engine.learning.ensemble.records import backbone_parts, read_record

    record = read_record(model)
    if not is_same_property(str(record["property"]), property_):
        return {}
    return {"backbone": [part["name"] for part in backbone_parts(record)], "lower_fidelity": model}


def create_directory(directory: Path, text: str) -> None:
    """Make a campaign directory from the text of its ``campaign.toml``, which is written last, once all is there.

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
        raise CampaignError(f"cannot write to {directory} ({error.strerror}); choose a writable directory") from error
