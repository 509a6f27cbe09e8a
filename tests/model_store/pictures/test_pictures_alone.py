"""Reading pictures needs neither the service nor the network."""

import subprocess
import sys

FOREIGN = ("torch", "service", "fastapi", "starlette", "training", "highdicom")


def test_reading_pictures_loads_no_torch_and_no_service() -> None:
    code = (
        "import sys, model_store.pictures.picture_reading\n"
        f"print([name for name in {FOREIGN} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
