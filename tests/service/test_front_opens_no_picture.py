"""The serving process opens no picture: what could do so is not even among its modules."""

from __future__ import annotations

import subprocess
import sys

READS_PICTURES = ("PIL", "pydicom", "numpy", "torch", "simplejpeg", "highdicom", "isal", "jpeg_ls")
SCRIPT = f"""
import asyncio, sys
import service.__main__
from service.app import create_app
from service.logging import configure_logging
from service.settings import Settings
app = create_app(Settings())
async def start_and_stop():
    async with app.router.lifespan_context(app):
        assert app.state.service.readiness.state.value == "loading"
        while app.state.service.readiness.state.value == "loading":
            await asyncio.sleep(0.05)
        assert app.state.service.readiness.state.value == "ready"
    app.openapi()
asyncio.run(start_and_stop())
print("found:", [name for name in {READS_PICTURES!r} if name in sys.modules])
"""


def test_no_library_of_pictures_is_loaded() -> None:
    """After a whole start: the model is proven, and a worker has decoded the golden image."""
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=False
    )
    assert "found: []" in found.stdout, found.stdout + found.stderr
