"""The short form of the soak: every request is accounted once, memory and descriptors stay."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from benchmarks.service.soak import Soaked, _faults, _Ids, soak


def test_some_seconds_of_mixed_callers_leave_nothing_behind(tiny_artifact: Path) -> None:
    seen = soak(tiny_artifact, seconds=8, callers=3)
    assert seen.faults == []
    assert seen.given_up > 0
    kinds = {line.split(" ", 1)[0] for line in seen.answers}
    assert kinds == {"200", "400", "422"}
    assert len(seen.memory_bytes) == len(seen.descriptors) == 10


def test_what_is_not_accounted_is_said() -> None:
    ids = _Ids({"a": 200, "b": 200, "c": 429}, {"d"})
    seen = Soaked(given_up=1, memory_bytes=[0, 60_000_000], descriptors=[20, 21])
    entries = Counter({"a": 2, "stranger": 1})
    faults = " ".join(_faults(seen, ids, Counter({200: 1, 429: 1, 499: 1}), entries))
    for said in (
        "the service counted", "1 requests have no entry", "1 requests have several entry",
        "1 requests have a stranger's entry", "[429]", "grew by 60 MB", "1 descriptors",
    ):  # fmt: skip
        assert said in faults
