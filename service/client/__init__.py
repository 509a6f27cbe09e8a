"""A client of the segmentation service for Python programs; it needs only httpx.

`pip install "lungseg-client @ git+ADDRESS#subdirectory=service/client"` installs these files as
`lungseg_client`; inside the repository they are `service.client`. Hence the relative imports.
"""

from .answers import Box, Segmentation, SegmentedMask, SegmentError, SegmentWarning
from .client import Client

__all__ = ["Box", "Client", "SegmentError", "SegmentWarning", "Segmentation", "SegmentedMask"]
