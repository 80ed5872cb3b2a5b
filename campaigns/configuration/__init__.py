"""``campaign.toml``: every setting of a campaign, checked when it is read."""

from campaigns.configuration.configuration import Configuration
from campaigns.configuration.constraints import ConstraintsSection
from campaigns.configuration.goals import CampaignSection, ObjectiveSection
from campaigns.configuration.labels import DftSection, LabelerSection, LabelsSection
from campaigns.configuration.model import ModelSection
from campaigns.configuration.reading import (
    FILE,
    check_configuration,
    parse_configuration,
    read_configuration,
    round_settings,
)

__all__ = [
    "FILE",
    "CampaignSection",
    "Configuration",
    "ConstraintsSection",
    "DftSection",
    "LabelerSection",
    "LabelsSection",
    "ModelSection",
    "ObjectiveSection",
    "check_configuration",
    "parse_configuration",
    "read_configuration",
    "round_settings",
]
