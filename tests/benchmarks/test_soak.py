"""The short form of the soak: every request is accounted once, memory and descriptors stay."""

from __future__ import annotations

import json
import mmap
import os
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.service.process_memory import tree_unmapped_bytes
from benchmarks.service.soak import Soaked, _faults, _Ids, print_seen, soak


def test_some_seconds_of_mixed_callers_leave_nothing_behind(tiny_artifact: Path) -> None:
    seen = soak(tiny_artifact, seconds=8, callers=3)
    assert seen.faults == []
    assert seen.given_up > 0
    kinds = {line.split(" ", 1)[0] for line in seen.answers}
    assert kinds == {"200", "400", "422"}
    assert len(seen.memory_bytes) == len(seen.descriptors) == 10


def test_what_is_not_accounted_is_said() -> None:
    ids = _Ids({"a": 200, "b": 200, "c": 429}, {"d"})
    seen = Soaked(given_up=1, memory_bytes=[0] * 7 + [60_000_000] * 3, descriptors=[20, 21])
    entries = Counter({"a": 2, "stranger": 1})
    faults = " ".join(_faults(seen, ids, Counter({200: 1, 429: 1, 499: 1}), entries))
    for said in (
        "the service counted", "1 requests have no entry", "1 requests have several entry",
        "1 requests have a stranger's entry", "[429]", "grew by 60 MB", "1 descriptors",
    ):  # fmt: skip
        assert said in faults


def test_a_swing_is_no_growth_and_a_rising_floor_is() -> None:
    swinging = [530, 472, 539, 478, 472, 530, 465, 472, 536, 476]  # the default model, one minute
    leaking = [one + 20 * look for look, one in enumerate(swinging)]
    assert Soaked(memory_bytes=swinging).growth_bytes == 0
    assert Soaked(memory_bytes=leaking).growth_bytes > 100


def test_the_last_line_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_seen(Soaked(Counter({"200 X-ray": 3}), 1, [5, 7], [20, 20]))
    line = capsys.readouterr().out.splitlines()[-1]
    assert json.loads(line)["answers"] == {"200 X-ray": 3}


def test_memory_counts_what_is_made_and_not_what_lies_in_files(tmp_path: Path) -> None:
    size = 64 << 20
    file = tmp_path / "library"
    file.write_bytes(bytes(size))
    before = tree_unmapped_bytes(os.getpid())
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as pages:
        assert not any(pages[:: mmap.PAGESIZE])  # each page is here now
        assert tree_unmapped_bytes(os.getpid()) - before < size // 4
    made = bytearray(b"x") * size
    assert tree_unmapped_bytes(os.getpid()) - before > size // 2
    assert len(made) == size
