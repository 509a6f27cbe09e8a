#!/usr/bin/env bash
# Writes deploy/image/lock/ anew, what the images install on x86-64 with Python 3.11, with hashes:
#   deploy/image/lock.sh              # needs uv (extra `release`) and PyPI; versions stay as they are
#   deploy/image/lock.sh --upgrade    # the newest versions that pyproject.toml allows
# cpu.txt and cuda.txt are whole; otel.txt and pacs.txt are what these extras add. PyTorch's build for
# CPUs is on its makers' own index: a hash of it is written only when that index gave it.
set -euo pipefail
cd "$(dirname "$0")/../.."
index=${LUNGSEG_INDEX:-https://pypi.org/simple}
torch_index=${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}
lock=${LUNGSEG_LOCK_FOLDER:-deploy/image/lock}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
header='# Made by deploy/image/lock.sh, for pip install --no-deps --require-hashes.'

compile() {  # compile NAME ARGUMENT...: into $folder/NAME.txt, from the versions locked so far
    if [ -e "$lock/$1.txt" ]; then grep -v '^#' "$lock/$1.txt" > "$folder/$1.txt"; fi
    uv pip compile --quiet --no-config --default-index "$index" --generate-hashes --no-header \
        --no-annotate --python-version 3.11 --python-platform x86_64-manylinux_2_36 \
        --output-file "$folder/$1.txt" "${@:2}"
}

echo setuptools > "$folder/setuptools.in"  # builds the wheel inside the image
inputs=(pyproject.toml "$folder/setuptools.in")
compile cuda "$@" "${inputs[@]}" --extra cuda

# What PyPI's torch brings along for GPUs and its build for CPUs does not.
grep -oE '^(nvidia-[a-z0-9-]+|cuda-[a-z-]+|triton)' "$folder/cuda.txt" \
    | sed "s/\$/; sys_platform == 'never'/" > "$folder/without.txt"
cpu=(--override "$folder/without.txt" --constraint "$folder/cuda.txt")
compile cpu "${inputs[@]}" "${cpu[@]}" --no-emit-package torch
for extra in otel pacs; do
    compile "$extra" "$@" "${inputs[@]}" "${cpu[@]}" --no-emit-package torch --extra "$extra"
done
python3 - "$folder" <<'PYTHON'
import pathlib
import re
import sys

folder = pathlib.Path(sys.argv[1])
blocks = {p.stem: re.split(r"\n(?=\S)", p.read_text().strip()) for p in folder.glob("*.txt")}
for extra in ("otel", "pacs"):
    added = [block for block in blocks[extra] if block not in blocks["cpu"]]
    (folder / f"{extra}.txt").write_text("\n".join(added) + "\n")
PYTHON

torch=$(grep -oE '^torch==[0-9.]+' "$folder/cuda.txt")+cpu
echo "$torch" > "$folder/torch.in"
if uv pip compile --quiet --no-config --default-index "$torch_index" --generate-hashes --no-deps \
    --no-header --no-annotate --python-version 3.11 --python-platform x86_64-manylinux_2_36 \
    --output-file "$folder/torch-cpu.txt" "$folder/torch.in" 2> "$folder/why"; then
    grep -q -- '--hash=sha256:' "$folder/torch-cpu.txt" || echo "$torch_index gave no hash of $torch." >&2
elif grep -qF "$torch " "$lock/torch-cpu.txt" 2> /dev/null; then
    echo "$torch_index was not reached: the hash of $torch stays as it was." >&2
    sed 1d "$lock/torch-cpu.txt" > "$folder/torch-cpu.txt"
else
    echo "$torch_index was not reached: $torch is locked WITHOUT a hash." >&2
    cp "$folder/torch.in" "$folder/torch-cpu.txt"
fi

mkdir -p "$lock"
for name in cpu cuda otel pacs torch-cpu; do
    { echo "$header"; cat "$folder/$name.txt"; } > "$lock/$name.txt"
done
