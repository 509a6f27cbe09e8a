"""The exceptions that end a command, one for each kind of fault."""


class ConfigError(ValueError):
    """A setting is unknown, missing or out of range; the message names it."""


class DataError(ValueError):
    """The data set cannot be used; the message names the file and the reason."""


class CheckpointError(ValueError):
    """A checkpoint cannot be used or written; the message names the file and the reason."""
