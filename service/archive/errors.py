"""How an archive run fails as a whole; what one file does to itself stands in its row."""

from __future__ import annotations


class ArchiveError(Exception):
    """The run cannot begin or go on; the message is one sentence for the operator."""
