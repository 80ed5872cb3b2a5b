"""Errors of the engine.

Every message gives what was wrong, the value received and what to do next.
"""


class EngineError(Exception):
    """Base of all errors of the engine."""


class CrystalError(EngineError):
    """A crystal that cannot be used; ``reason`` is a machine-readable word, ``remedy`` says how to correct it."""

    def __init__(self, reason: str, message: str, remedy: str):
        super().__init__(f"{message}; {remedy}")
        self.reason = reason
        self.message = message
        self.remedy = remedy


class UnknownElementError(EngineError):
    """A crystal holds an element that the backbone was never trained on."""


class BackboneError(EngineError):
    """A backbone's file is missing, altered, or gives wrong numbers on known compounds."""


class TooFewLabelsError(EngineError):
    """Fewer labels than a model needs."""


class SplitError(EngineError):
    """Labelled rows that cannot be split into training and test rows as asked."""


class AcquisitionError(EngineError):
    """A batch that cannot be chosen: an empty pool, a tie no rule breaks, an unknown acquisition function."""


class ShardError(EngineError):
    """A shard of graphs or embeddings that cannot be read or has other columns."""


class TrainingError(EngineError):
    """Training that cannot continue."""


class DivergedError(TrainingError):
    """A loss or a weight that is NaN; the weights of epoch ``kept`` are kept, 0: those at the start."""

    def __init__(self, message: str, kept: int = 0):
        super().__init__(message)
        self.kept = kept


class ModelFileError(EngineError):
    """A trained model on disk that is missing, incomplete or altered."""


class PotentialError(EngineError):
    """A potential that is missing, altered, or gives wrong numbers on known compounds."""


class SupercellError(EngineError):
    """A supercell that cannot be made, or too many displaced supercells."""


class CellMatchError(EngineError):
    """Two cells that are not the same crystal."""


class BornChargesError(EngineError):
    """Born charges that cannot be read, or that are not those of the crystal."""


class SourceError(EngineError):
    """A database on the network that cannot be reached, does not answer, or contradicts itself."""


class RefusedRequestError(SourceError):
    """A request that a database refuses; ``status`` is the HTTP status, 400 to 499."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class ExecutionError(EngineError):
    """Workers that cannot be started, or that died repeatedly."""
