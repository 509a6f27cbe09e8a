"""Fixtures of all tests: tiny models, a tiny stored model, the data set if it is there."""

from __future__ import annotations

import inspect
import os
from pathlib import Path

# Triton reads this when its kernels are defined: in tests they run in its interpreter.
os.environ.setdefault("TRITON_INTERPRET", "1")

import httpx
import pytest
import torch
from hypothesis import settings

from model_store.architecture import SamConfig
from model_store.sam import PromptableSam
from tests.tiny_models import make_tiny_config, make_tiny_model, write_tiny_artifact

# A busy machine must not fail a property; in CI the same examples come every time.
settings.register_profile("project", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("project")

# Nor may it fail a caller: those that name no time limit wait a minute, not five seconds.
for _name in ("read", "write", "connect", "pool"):
    setattr(inspect.signature(httpx.get).parameters["timeout"].default, _name, 60.0)

XRAYS_VARIABLE = "LUNGSEG_TEST_XRAYS"
XRAYS_ROOT = Path(
    os.environ.get(XRAYS_VARIABLE) or Path(__file__).parents[2] / "shared" / "data"
).absolute()
"""Folder with real X-rays: `cxr/` and `samples/`, as `docs/data.md` describes them."""


SLOW_FILES = frozenset(
    line
    for line in (Path(__file__).parent / "slow_files.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make test-quick` leaves out, and put it first.

    Of two processes that take file after file, neither then ends with a long one.
    """
    for item in items:
        if item.path.relative_to(Path(__file__).parent).as_posix() in SLOW_FILES:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tiny models are faster on one thread, and other work on the machine disturbs less."""
    torch.set_num_threads(1)


@pytest.fixture
def tiny_config() -> SamConfig:
    return make_tiny_config()


@pytest.fixture
def tiny_model() -> PromptableSam:
    return make_tiny_model()


@pytest.fixture(scope="session")
def tiny_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stored tiny INT8 model; tests must not change it."""
    return write_tiny_artifact(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def xray_root() -> Path:
    """The folder of real X-rays; tests on them are skipped, loudly, where it is not."""
    if not (XRAYS_ROOT / "cxr" / "manifest.csv").is_file():
        pytest.skip(f"no X-rays at {XRAYS_ROOT} ({XRAYS_VARIABLE}): tests on real data did NOT run")
    return XRAYS_ROOT


@pytest.fixture(scope="session")
def xray_data(xray_root: Path) -> Path:
    """The labelled X-rays, a data set as training reads it."""
    return xray_root / "cxr"
