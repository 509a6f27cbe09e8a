"""The failure of a whole archive run; a file that cannot be segmented fails only its own row."""

from __future__ import annotations


class ArchiveError(Exception):
    """The run cannot begin or continue; the message is one sentence for the operator."""
