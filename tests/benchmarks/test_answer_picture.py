"""The picture in the README is an answer of the served model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.quality import answer_picture

STORED = Path(__file__).parents[2] / "docs" / "pictures" / "answer.jpg"
LARGEST_BYTES = 100_000


def test_the_stored_picture_is_what_the_command_draws(tmp_path: Path) -> None:
    made = tmp_path / "answer.jpg"
    assert answer_picture.main(["--out", str(made)]) == 0
    with Image.open(made) as one, Image.open(STORED) as other:
        assert one.size == other.size
        difference = np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16))
    assert difference.mean() < 0.5
    assert STORED.stat().st_size < LARGEST_BYTES
