"""Errors a user can act on; launchers print them as one line, without a traceback."""


class SafexError(Exception):
    """Base of all errors that a user can act on."""


class ConfigError(SafexError):
    """A setting is unknown, of the wrong type, impossible, or fits no other setting."""


class ContractError(SafexError):
    """An environment does not keep the protocol, for instance has no cost."""


class CheckpointError(SafexError):
    """No checkpoint of a run can be used."""


class ResultsError(SafexError):
    """A results folder cannot be used for this run."""


class UnfinishedError(SafexError):
    """Seeds of a job could not be finished; the others are."""


class NonFiniteError(SafexError):
    """NaN or inf appeared; the run stops with its last good checkpoint intact."""


class SimulatorError(SafexError):
    """An environment of another package failed, or the process that stepped it."""
