"""Splits and duplicates: what must hold for any set of X-rays."""

import csv
import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tests.raw_downloads import letter, phantom
from training.data.dataset import read_rows
from training.prepare.duplicates import (
    LARGEST_DISTANCE,
    connected,
    links_of_equal_keys,
    near_pairs,
    perceptual_hash,
)
from training.prepare.splits import SHARES, split_groups

GROUPS = st.dictionaries(st.text(min_size=1, max_size=6), st.integers(1, 9), max_size=60)


@given(GROUPS, st.integers(0, 2**32))
def test_each_split_has_its_share(sizes: dict[str, int], seed: int) -> None:
    chosen = split_groups(sizes, dict.fromkeys(sizes, "one"), seed)
    assert set(chosen) == set(sizes)
    counts: Counter[str] = Counter()
    for group, split in chosen.items():
        counts[split] += sizes[group]
    total, largest = sum(sizes.values()), max(sizes.values(), default=0)
    for split, share in SHARES.items():
        assert abs(counts[split] - share * total) <= largest


@given(GROUPS, st.integers(0, 9), st.randoms())
def test_the_order_of_groups_does_not_matter(sizes: dict[str, int], seed: int, rng: object) -> None:
    strata = {group: group[0] for group in sizes}
    shuffled = list(sizes)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    again = split_groups({group: sizes[group] for group in shuffled}, strata, seed)
    assert again == split_groups(sizes, strata, seed)


def test_the_seed_matters_and_each_stratum_is_divided() -> None:
    sizes = {f"{stratum}{index}": 1 for stratum in "ab" for index in range(50)}
    strata = {group: group[0] for group in sizes}
    chosen = split_groups(sizes, strata, 1)
    for stratum in "ab":
        counts = Counter(chosen[group] for group in sizes if group[0] == stratum)
        assert counts == {"train": 40, "val": 5, "test": 5}
    assert chosen != split_groups(sizes, strata, 2)


@given(st.integers(1, 30).flatmap(lambda n: st.tuples(st.just(n), st.lists(
    st.tuples(st.integers(0, n - 1), st.integers(0, n - 1))))))  # fmt: skip
def test_linked_items_are_one_group(case: tuple[int, list[tuple[int, int]]]) -> None:
    count, links = case
    group = connected(count, links)
    assert all(group[first] == group[second] for first, second in links)
    assert all(group[group[item]] == group[item] <= item for item in range(count))
    if not links:
        assert group == list(range(count))
    assert connected(count, links[::-1]) == group


def test_links_of_equal_keys() -> None:
    assert links_of_equal_keys(["a", None, "b", "a", None, "a"]) == [(0, 3), (0, 5)]


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=20), st.integers(0, 256))
def test_near_pairs_are_those_of_the_definition(raw: list[bytes], largest: int) -> None:
    hashes = np.array([np.frombuffer(item, np.uint64) for item in raw])
    bits = np.unpackbits(np.array([np.frombuffer(item, np.uint8) for item in raw]), axis=1)
    wanted = [
        (i, j)
        for i in range(len(raw))
        for j in range(i + 1, len(raw))
        if int((bits[i] != bits[j]).sum()) <= largest
    ]
    assert near_pairs(hashes, largest) == wanted


def test_near_pairs_beyond_one_block() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**63, (700, 4), dtype=np.uint64)
    hashes[600] = hashes[10] ^ np.uint64(7)
    hashes[699] = hashes[698]
    assert near_pairs(hashes) == [(10, 600), (698, 699)]


def jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.resize((224, 224)).save(buffer, "JPEG", quality=60)
    return Image.open(buffer)


COPIES = {
    "smaller": lambda image: image.resize((256, 256), Image.Resampling.BILINEAR),
    "squashed": lambda image: image.resize((200, 150), Image.Resampling.BILINEAR),
    "jpeg": jpeg,
    "equalized": ImageOps.equalize,
    "gamma": lambda image: image.point(lambda value: int(255 * (value / 255) ** 0.6)),
    "letter": lambda image: Image.fromarray(letter(np.asarray(image))),
}


@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_is_near_and_another_is_not(copy: str) -> None:
    films = [Image.fromarray(phantom(seed, 320).image) for seed in range(8)]
    hashes = [perceptual_hash(film) for film in films]
    copies = [perceptual_hash(COPIES[copy](film)) for film in films]
    for i, original in enumerate(hashes):
        for j, other in enumerate(copies):
            distance = int(np.bitwise_count(original ^ other).sum())
            assert (distance <= LARGEST_DISTANCE) is (i == j), (i, j, distance)


def test_no_two_patients_are_taken_for_one(xray_data: Path) -> None:
    rows = [row for split in ("val", "test") for row in read_rows(xray_data, split)]
    assert len(rows) > 600
    hashes = []
    for row in rows:
        with Image.open(row.image_path) as file:
            hashes.append(perceptual_hash(file.convert("L")))
    near = near_pairs(np.stack(hashes))
    with (xray_data / "manifest.csv").open(newline="") as file:
        group = {record["name"]: record["group"] for record in csv.DictReader(file)}
    wrong = [(rows[i].name, rows[j].name) for i, j in near
             if group[rows[i].name] != group[rows[j].name]]  # fmt: skip
    assert not wrong
