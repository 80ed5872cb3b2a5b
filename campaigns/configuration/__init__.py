"""``campaign.toml``: every setting of a campaign, checked when it is read."""

from campaigns.configuration.configuration import Configuration
from campaigns.configuration.constraints import ConstraintsSection
from campaigns.configuration.goals import CampaignSection, ObjectiveSection
from campaigns.configuration.labels import NEW_PRESET, DftSection, LabelerSection, LabelsSection
from campaigns.configuration.listing import setting_rows
from campaigns.configuration.model import ModelSection
from campaigns.configuration.reading import (
    FILE,
    check_configuration,
    parse_configuration,
    read_configuration,
    round_settings,
    upgrade_configuration,
)
from campaigns.configuration.renamed import current_names, warn_of_old_names
from campaigns.configuration.template import campaign_toml, with_settings
from campaigns.configuration.toml_text import toml_value

__all__ = [
    "FILE",
    "NEW_PRESET",
    "CampaignSection",
    "Configuration",
    "ConstraintsSection",
    "DftSection",
    "LabelerSection",
    "LabelsSection",
    "ModelSection",
    "ObjectiveSection",
    "campaign_toml",
    "check_configuration",
    "current_names",
    "parse_configuration",
    "read_configuration",
    "round_settings",
    "setting_rows",
    "toml_value",
    "upgrade_configuration",
    "warn_of_old_names",
    "with_settings",
]
