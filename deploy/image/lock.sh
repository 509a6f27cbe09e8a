#!/usr/bin/env bash
# Writes versions.txt anew: the newest versions that pyproject.toml allows, for both images.
#   deploy/image/lock.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
report() {
    python3 -m pip install --dry-run --ignore-installed --quiet --report "$folder/$1.json" "${@:2}"
}
report cpu 'torch==2.13.0' '.[otel,pacs]' setuptools
PIP_CONFIG_FILE=/dev/null PIP_FIND_LINKS='' report cuda 'torch==2.13.0' '.[cuda]'
python3 - "$folder" > deploy/image/versions.txt <<'PYTHON'
import json
import pathlib
import sys

found = {}
for path in pathlib.Path(sys.argv[1]).glob("*.json"):
    for one in json.loads(path.read_text())["install"]:
        name = one["metadata"]["name"].lower().replace("_", "-")
        found[name] = one["metadata"]["version"].partition("+")[0]
found.pop("adalora-qat")
print("# Made by deploy/image/lock.sh. What the images install; torch's build is the Dockerfile's.")
print("\n".join(f"{name}=={version}" for name, version in sorted(found.items())))
PYTHON
