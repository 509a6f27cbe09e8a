"""The list of software of unknown provenance (SOUP), from the lock and two records.

`declared.json` contains what the metadata of each locked version declare. `soup.toml` is maintained
by hand: purpose of each package, list of its anomalies, test that would detect one.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.supply.declared import DECLARED
from deploy.supply.lock_files import EXTRAS, IMAGES, Locked, all_locked, of_image

KNOWLEDGE = Path(__file__).with_name("soup.toml")
PAGE = Path(__file__).parents[2] / "docs" / "regulatory" / "soup.md"

HEAD = """\
# Software of unknown provenance

> **Template, not reviewed.** `python -m deploy.supply soup` makes this page of
> `deploy/image/lock/` and `deploy/supply/`; a test compares them. Before a release, somebody reads
> the anomalies of each row.

{count} packages are in the images. *Where*: `cpu` and `cuda` are the images, `otel` and `pacs` the
extras. Licences are what the metadata of the locked version declare; those with a mark are
explained below. Known vulnerabilities of each are at
`https://osv.dev/list?ecosystem=PyPI&q=NAME`. Python itself, Debian's packages and NVIDIA's driver
are not in the list: they come with the base image and the host. What runs on GPUs alone is verified
by the golden mask that every start of the service computes, and by the test of that check.

| package | version | licence | where | what it does for us | known anomalies | verified by |
|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Soup:
    """A locked package with its SOUP record."""

    locked: Locked
    requires: tuple[str, ...]
    licence: str
    licence_from: str | None  # where the metadata declare none
    does: str
    anomalies: str
    test: str
    where: tuple[str, ...]


def read_soup() -> list[Soup]:
    """Return every locked package with its SOUP record, by name.

    Raises:
        ValueError: The records and the lock name different packages or versions, or a licence is
            unknown. The message says what to do.
    """
    declared = json.loads(DECLARED.read_text())
    known = tomllib.loads(KNOWLEDGE.read_text())
    packages = all_locked()
    versions = {one.name: one.public_version for one in packages}
    if versions != {name: entry["version"] for name, entry in declared.items()}:
        raise ValueError(f"{DECLARED.name} is not of this lock: run python -m deploy.supply record")
    if versions.keys() != known.keys():
        different = ", ".join(sorted(versions.keys() ^ known.keys()))
        raise ValueError(f"{KNOWLEDGE.name} and the lock differ, correct it by hand: {different}")
    holders = {image: of_image(image) for image in IMAGES}
    holders |= {extra: of_image("cpu", (extra,)) for extra in EXTRAS}
    names = {holder: {one.name for one in held} for holder, held in holders.items()}
    return [
        _soup(one, declared[one.name], known[one.name], _where(one.name, names)) for one in packages
    ]


def _soup(
    package: Locked, declared: dict[str, Any], known: dict[str, str], where: tuple[str, ...]
) -> Soup:
    licence = declared["licence"] or known.get("licence")
    if licence is None:
        raise ValueError(f"{package.name} declares no licence: name it in {KNOWLEDGE.name}")
    return Soup(
        locked=package,
        requires=tuple(declared["requires"]),
        licence=licence,
        licence_from=None if declared["licence"] else known["licence_from"],
        does=known["does"],
        anomalies=known["anomalies"],
        test=known["test"],
        where=where,
    )


def _where(name: str, names: dict[str, set[str]]) -> tuple[str, ...]:
    """Return the images that contain a package, otherwise the extras that add it."""
    images = tuple(image for image in IMAGES if name in names[image])
    return images or tuple(extra for extra in EXTRAS if name in names[extra])


def page() -> str:
    """Return `docs/regulatory/soup.md`: the list, then the number of packages by licence."""
    soup = read_soup()
    lines = [
        f"| {one.locked.name} | {one.locked.public_version} | {one.licence}"
        f"{' *' if one.licence_from else ''} | {', '.join(one.where)} | {one.does} "
        f"| [list]({one.anomalies}) | `{one.test}` |"
        for one in soup
    ]
    counts: dict[str, list[str]] = {}
    for one in soup:
        counts.setdefault(one.licence, []).append(one.locked.name)
    report = [
        f"| {licence} | {len(names)} | {', '.join(names)} |"
        for licence, names in sorted(counts.items(), key=lambda item: (-len(item[1]), item[0]))
    ]
    marked = [f"- {one.locked.name}: {one.licence_from}." for one in soup if one.licence_from]
    parts = [
        HEAD.format(count=len(soup)) + "\n".join(lines),
        "\\* No licence as one expression in the metadata; it is known from:",
        "\n".join(marked),
        "## Licences",
        "| licence | packages | which |\n|---|---|---|\n" + "\n".join(report),
    ]
    return "\n\n".join(parts) + "\n"
