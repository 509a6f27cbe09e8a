"""Asks for the mask of one X-ray with the client that openapi-python-client made."""

import io
import sys
from pathlib import Path

from lung_segmentation_client import Client
from lung_segmentation_client.api.segmentation import segment
from lung_segmentation_client.models import SegmentAnswer, SegmentFilesBody
from lung_segmentation_client.types import File

image = File(io.BytesIO(Path(sys.argv[2]).read_bytes()), "xray.png", "image/png")
answer = segment.sync(client=Client(sys.argv[1]), body=SegmentFilesBody(image=image))
assert isinstance(answer, SegmentAnswer), answer
print(answer.model.name, answer.masks[0].area_px)
