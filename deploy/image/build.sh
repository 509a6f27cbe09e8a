#!/usr/bin/env bash
# Builds localhost/adalora-qat:cpu where no image registry and no Docker daemon can be reached: a
# base of Debian 12 made by debootstrap, then the Dockerfile itself, by buildah. As root, with
# Debian's packages buildah and debootstrap:
#   deploy/image/build.sh
# Packages still come from Debian and PyPI. LUNGSEG_WHEELS=FOLDER adds a folder of wheels, for a
# torch==2.13.0+cpu that cannot be fetched.
set -euo pipefail
cd "$(dirname "$0")/../.."
base=localhost/lungseg-base
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER="${STORAGE_DRIVER:-vfs}"
certificates=/etc/ssl/certs/ca-certificates.crt
wheels=${LUNGSEG_WHEELS:-}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

if ! buildah inspect --type image "$base" > /dev/null 2>&1; then
    rootfs=$scratch/rootfs
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$rootfs"
    rm -rf "$rootfs"/var/cache/apt/* "$rootfs"/var/lib/apt/lists/* "$rootfs"/usr/share/{doc,man,locale}
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$rootfs" /
    buildah commit --quiet "$container" "$base"
    buildah rm "$container" > /dev/null
fi

# Seen while it is built and not kept in the image: this machine's certificates, and the wheels.
printf '[global]\ncert = %s\n' "$certificates" > "$scratch/pip.conf"
mounts=(--volume "$certificates:$certificates:ro" --volume "$scratch/pip.conf:/etc/pip.conf:ro")
arguments=(--build-arg "BASE_IMAGE=$base")
if [ -n "$wheels" ]; then
    printf 'find-links = %s\n' "$wheels" >> "$scratch/pip.conf"
    mounts+=(--volume "$wheels:$wheels:ro")
    arguments+=(--build-arg "TORCH_INDEX=file://$wheels")
fi
buildah bud --format docker --target cpu "${mounts[@]}" "${arguments[@]}" \
    -t localhost/adalora-qat:cpu .
