"""An archive's actor has the stored model, prepared for batches before its first X-ray."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.compute.archive_model import ARCHIVE_MODEL, make_archive_model, start_archive_child
from service.settings import Settings


def test_the_child_has_the_stored_model(tiny_artifact: Path) -> None:
    child = start_archive_child(Settings(model=tiny_artifact, device="cpu", threads=1))
    try:
        assert ARCHIVE_MODEL.encode() in Path(f"/proc/{child.process_id}/cmdline").read_bytes()
        assert child.self_test().passed
    finally:
        child.close()


class Model:
    """A model with batch sizes to prepare, for which there may be no memory."""

    def __init__(self, left: list[int], *, fails: bool = False) -> None:
        self.left, self.fails = left, fails

    def record_further(self) -> bool:
        """Prepare a size; False when that was the last."""
        if self.fails:
            raise RuntimeError("out of memory")
        self.left.pop()
        return bool(self.left)


@pytest.mark.parametrize(("fails", "left"), [(False, []), (True, [8, 4, 2])])
def test_batch_sizes_are_prepared_before_the_first_xray_unless_that_fails(
    fails: bool, left: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model([8, 4, 2], fails=fails)
    monkeypatch.setattr("service.compute.stored_model.make_stored_model", lambda settings: model)
    assert make_archive_model(Settings()) is model  # type: ignore[comparison-overlap]
    assert model.left == left
