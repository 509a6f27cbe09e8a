"""Record the licence that each locked package declares in the metadata of its locked version.

pip resolves the lists without installing anything and reports the metadata; a file whose hash is
not in the lock is refused by it. `soup.toml` names the licence where the metadata name none.
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
from packaging.utils import canonicalize_name

from deploy.supply.lock_files import EXTRAS, LOCK_FOLDER

LICENCES = Path(__file__).with_name("licences.json")

SPDX = {
    "Apache 2.0": "Apache-2.0",
    "FreeBSD": "BSD-2-Clause",
    "3-Clause BSD License": "BSD-3-Clause",
    "NVIDIA Proprietary Software": "LicenseRef-NVIDIA-Proprietary",
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
"""What older metadata say instead of an SPDX expression, where it has one meaning only."""


def declared_licence(metadata: Mapping[str, Any]) -> str | None:
    """Return the licence as an SPDX expression, or None where the metadata leave it open."""
    words = [metadata.get("license_expression"), metadata.get("license")]
    words += [one for one in metadata.get("classifier", []) if one.startswith("License ::")]
    for word in filter(None, words):
        try:
            return str(canonicalize_license_expression(SPDX.get(word, word)))
        except InvalidLicenseExpression:
            continue
    return None


def metadata_of(lists: tuple[str, ...]) -> list[Mapping[str, Any]]:
    """Return the metadata of each package of these lists, as pip reports them."""
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


def record() -> None:
    """Write `licences.json` anew: version and licence of each locked package; needs PyPI."""
    found: dict[str, dict[str, str | None]] = {}
    for lists in (("cpu", *EXTRAS), ("cuda",)):
        for metadata in metadata_of(lists):
            licence = declared_licence(metadata)
            entry = {"version": metadata["version"], "licence": licence}
            found[canonicalize_name(metadata["name"])] = entry
    LICENCES.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
