"""The one error of settings; apart, because every table of settings raises it."""


class ConfigError(ValueError):
    """A setting is unknown, missing or out of range; the message names it."""
