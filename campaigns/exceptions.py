"""What can go wrong in a campaign; every message says what, the value, and what to do."""


class CampaignError(Exception):
    """Base of every error a campaign raises on purpose."""


class ConfigurationError(CampaignError):
    """A ``campaign.toml`` that is missing, mistyped or inconsistent."""


class RenamedSettingWarning(FutureWarning):
    """A ``campaign.toml`` with keys that have other names now."""


class PropertyNameError(CampaignError, ValueError):
    """A property's name that says two things, or nothing that can be read."""


class CampaignBusyError(CampaignError):
    """Another process works on this campaign."""


class NoCandidatesError(CampaignError):
    """Nothing is left to rank."""


class LabelFileError(CampaignError):
    """A file of labels that cannot be read as a whole."""


class ExchangeError(CampaignError):
    """An export that cannot be written, or results that cannot be read or are not what was asked for."""


class TooLargeError(ExchangeError):
    """A calculation beyond the limits of ``[dft]``."""


class ArchiveError(CampaignError):
    """An archive that cannot be written, read or trusted."""


class ResultFileError(ExchangeError):
    """A file of results that is truncated, damaged, or holds no conductivity."""
