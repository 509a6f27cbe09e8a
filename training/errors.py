"""What the commands refuse, each kind an exception of its own; every package raises from here."""


class ConfigError(ValueError):
    """A setting is unknown, missing or out of range; the message names it."""


class DataError(ValueError):
    """The data set cannot be used; the message names the file and the reason."""


class CheckpointError(ValueError):
    """A checkpoint cannot be used or written; the message names the file and the reason."""
