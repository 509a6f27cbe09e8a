"""Train, val and test: 80, 10 and 10 per cent, without dividing groups."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping

SHARES: Mapping[str, float] = {"train": 0.8, "val": 0.1, "test": 0.1}


def split_groups(sizes: Mapping[str, int], strata: Mapping[str, str], seed: int) -> dict[str, str]:
    """Give every group a split.

    Within a stratum, such as a source, groups are assigned by size, the largest first, each to the
    split furthest below its share. Equal groups are ordered by a hash of seed and name. So the
    result depends only on the set of groups and the seed, and not on their order.

    Args:
        sizes: Number of X-rays of each group.
        strata: Stratum of each group; each is divided by itself.
        seed: Another seed gives another division.

    Returns:
        The split of each group. Within a stratum a split differs from its share by less than one
        X-ray if all groups are single X-rays, otherwise by at most the largest group.
    """
    members: defaultdict[str, list[str]] = defaultdict(list)
    for group in sizes:
        members[strata[group]].append(group)
    chosen: dict[str, str] = {}
    for groups in members.values():
        chosen.update(_split_stratum({group: sizes[group] for group in groups}, seed))
    return chosen


def _split_stratum(sizes: Mapping[str, int], seed: int) -> dict[str, str]:
    total = sum(sizes.values())
    filled: Counter[str] = Counter()
    chosen: dict[str, str] = {}
    for group in sorted(sizes, key=lambda name: (-sizes[name], _order(seed, name))):
        split = max(SHARES, key=lambda name: SHARES[name] * total - filled[name])
        chosen[group] = split
        filled[split] += sizes[group]
    return chosen


def _order(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()
