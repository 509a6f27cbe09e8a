"""What the process that image workers are forked from has loaded, and what it has not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from service.pipeline.image_workers import make_worker_pool
from service.settings import Settings
from service.workers.pool import WorkerPool
from service.workers.template_handle import ENVIRONMENT
from tests.service.workers.worker_pools import in_pool, until

SCRIPT = """
import json, sys
from service.workers.template import _warmed
_warmed("service.imaging.worker_tasks")
from PIL import Image
print(json.dumps({"modules": sorted(sys.modules), "formats": sorted(Image.OPEN)}))
"""
NEVER = ("torch", "openvino", "segment_anything", "fastapi", "starlette", "uvicorn", "highdicom")
"""The network and the port: neither belongs where a stranger's bytes are. The last one takes 90 MB
and comes with the first answer in DICOM."""
MOST_OWN_MB = 75
"""Of the template until then, 52 when this was written; all idle memory has a goal."""
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


def test_the_template_is_small_until_an_answer_in_dicom_is_wanted() -> None:
    async def test(pool: WorkerPool) -> None:
        await until(lambda: pool.ready == 1)
        assert own_mb(pool.supervisor.process_ids[0]) < MOST_OWN_MB
        pool.prepare_extras()
        await pool.supervisor.extras.wait()
        await until(lambda: pool.ready == 1)
        assert own_mb(pool.supervisor.process_ids[0]) > MOST_OWN_MB  # else: no reason

    in_pool(test, workers=1, tasks="service.imaging.worker_tasks")


def test_the_operator_may_have_it_hold_what_dicom_needs_from_the_start() -> None:
    for is_wanted in (False, True):
        pool = make_worker_pool(Settings(dicom_from_start=is_wanted), lambda reason: None)
        assert pool._config.extras_from_start is is_wanted


def own_mb(process: int) -> float:
    """Return what a process holds beside files, shared with its forks or not."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1000
