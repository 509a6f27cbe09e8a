"""How an archive run fails as a whole; a file that cannot be segmented only fails its own row."""

from __future__ import annotations


class ArchiveError(Exception):
    """The run cannot begin or go on; the message is one sentence for the operator."""
