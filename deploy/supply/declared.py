"""Record the licence and the requirements that the metadata of each locked version declare.

pip resolves the lists without installing anything and reports the metadata. It refuses a file whose
hash is not in the lock. `soup.toml` names the licence if the metadata do not.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.supply.lock_files import EXTRAS, LOCK_FOLDER

DECLARED = Path(__file__).with_name("declared.json")

ON_THE_IMAGES = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.11.9",
    "python_version": "3.11",
    "sys_platform": "linux",
}
"""Environment markers on which requirements depend."""

SPDX = {
    "Apache 2.0": "Apache-2.0",
    "FreeBSD": "BSD-2-Clause",
    "3-Clause BSD License": "BSD-3-Clause",
    "NVIDIA Proprietary Software": "LicenseRef-NVIDIA-Proprietary",
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
"""Unambiguous licence names of older metadata, and their SPDX expressions."""


def declared_licence(metadata: Mapping[str, Any]) -> str | None:
    """Return the licence as an SPDX expression, or None if the metadata are ambiguous."""
    words = [metadata.get("license_expression"), metadata.get("license")]
    words += [one for one in metadata.get("classifier", []) if one.startswith("License ::")]
    for word in filter(None, words):
        try:
            return str(canonicalize_license_expression(SPDX.get(word, word)))
        except InvalidLicenseExpression:
            continue
    return None


def metadata_of(lists: tuple[str, ...]) -> list[Mapping[str, Any]]:
    """Return pip's report of the metadata of each package in these lists."""
    # Older releases of pip leave `License-Expression` out of their report.
    command = ["uv", "tool", "run", "--python", sys.executable, "--from", "pip>=25", "pip"]
    command += ["install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps"]
    for name in lists:
        command += ["--requirement", str(LOCK_FOLDER / f"{name}.txt")]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        subprocess.run([*command, "--require-hashes", "--report", str(report)], check=True)
        installed = json.loads(report.read_text())["install"]
    return [one["metadata"] for one in installed]


def requirements_of(packages: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the requirements of each package in the images, such as `numpy>=1.26`.

    Args:
        packages: Metadata by canonical name. An extra's requirements count if another package
            requires that extra.
    """
    parsed = {
        name: [Requirement(line) for line in metadata.get("requires_dist", [])]
        for name, metadata in packages.items()
    }
    extras: dict[str, set[str]] = {name: {""} for name in packages}
    for requirement in (one for lines in parsed.values() for one in lines if _holds(one, {""})):
        extras.get(canonicalize_name(requirement.name), set()).update(requirement.extras)
    return {
        name: sorted(
            {
                f"{canonicalize_name(one.name)}{one.specifier}"
                for one in lines
                if _holds(one, extras[name])
            }
        )
        for name, lines in parsed.items()
    }


def _holds(requirement: Requirement, extras: set[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({**ON_THE_IMAGES, "extra": e}) for e in extras)


def record() -> None:
    """Write `declared.json` again: version, licence and requirements of each; needs PyPI."""
    reports = (metadata_of(("cpu", *EXTRAS)), metadata_of(("cuda",)))
    packages = {str(canonicalize_name(one["name"])): one for report in reports for one in report}
    requires = requirements_of(packages)
    found = {
        name: {
            "version": metadata["version"],
            "licence": declared_licence(metadata),
            "requires": requires[name],
        }
        for name, metadata in packages.items()
    }
    DECLARED.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
