"""What the process that image workers are forked from has loaded, and what it has not."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from service.workers.template_handle import ENVIRONMENT

SCRIPT = """
import json, sys
from service.workers.template import _warmed
_warmed("service.imaging.worker_tasks")
from PIL import Image
print(json.dumps({"modules": sorted(sys.modules), "formats": sorted(Image.OPEN)}))
"""
NEVER = ("torch", "openvino", "segment_anything", "fastapi", "starlette", "uvicorn")
"""The network and the port: neither belongs where a stranger's bytes are."""
FORMATS = ["JPEG", "PNG", "TIFF"]


def test_workers_have_no_network_no_port_and_no_codec_of_pillow_that_is_not_needed() -> None:
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **ENVIRONMENT},
    )
    warmed = json.loads(found.stdout)
    packages = {name.partition(".")[0] for name in warmed["modules"]}
    assert packages.isdisjoint(NEVER)
    assert {"numpy", "PIL", "pydicom", "cv2", "imagecodecs"} <= packages  # it is the real one
    assert warmed["formats"] == FORMATS
