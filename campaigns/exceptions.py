"""What can go wrong in a campaign; every message gives what is wrong, the value, and what to do."""


class CampaignError(Exception):
    """Base of all errors of campaigns."""


class ConfigurationError(CampaignError):
    """A ``campaign.toml`` that is missing, malformed or inconsistent."""


class RenamedSettingWarning(FutureWarning):
    """A ``campaign.toml`` with keys that were renamed."""


class PropertyNameError(CampaignError, ValueError):
    """A property's name that is ambiguous or cannot be read."""


class CampaignBusyError(CampaignError):
    """Another process works on this campaign."""


class NoCandidatesError(CampaignError):
    """No candidate is left."""


class LabelFileError(CampaignError):
    """A file of labels that cannot be read as a whole."""


class ExchangeError(CampaignError):
    """An export that cannot be written, or results that cannot be read or differ from what was exported."""


class TooLargeError(ExchangeError):
    """A calculation beyond the limits of ``[dft]``."""


class ClusterError(CampaignError):
    """A queueing system or a machine that cannot be reached, or that refuses a job."""


class ArchiveError(CampaignError):
    """An archive that cannot be written or read, or that is damaged."""


class ResultFileError(ExchangeError):
    """A file of results that is truncated, damaged, or holds no conductivity."""
