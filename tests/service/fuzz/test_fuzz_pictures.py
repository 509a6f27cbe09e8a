"""A bounded number of damaged files; `fuzz_pictures.py` goes on for as long as asked."""

from __future__ import annotations

import asyncio

from model_store.pictures.picture_reading import read_picture
from tests.service.fuzz.fuzz_pictures import CPU_S, DOCUMENTED, Fuzzer
from tests.service.fuzz.fuzz_seeds import seeds
from tests.service.fuzz.mutations import mutated

MUTANTS = 600
MOST_RESIDENT_BYTES = 300 << 20
"""Of a worker, the template's share included; the largest mutant has 4 megapixels."""


def test_every_seed_is_an_x_ray_that_is_read() -> None:
    for name, data in seeds().items():
        picture = read_picture(data, max_pixels=10_000)
        assert (picture.height, picture.width) in {(48, 64), (64, 48)}, name


def test_a_mutant_is_the_same_each_time() -> None:
    files = list(seeds().values())
    first = [mutated(files, 1, number) for number in range(50)]
    assert first == [mutated(files, 1, number) for number in range(50)]
    assert sum(data != files[index] for index, data in first) > 40


def test_damaged_files_are_read_or_refused_and_leave_nothing_behind() -> None:
    found = asyncio.run(Fuzzer(seed=20).run(MUTANTS))
    assert not found.faults, "\n".join(found.faults)
    assert sum(found.outcomes.values()) == MUTANTS
    assert found.outcomes["read"] > MUTANTS // 20
    assert sum(found.outcomes[code] for code in DOCUMENTED) > MUTANTS // 4
    assert found.slowest_cpu_s < CPU_S / 2
    assert 0 < found.most_resident_bytes < MOST_RESIDENT_BYTES
    assert found.held_bytes == 0
