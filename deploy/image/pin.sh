#!/usr/bin/env bash
# Pins the images that others make (the Dockerfile's base, Compose's monitoring) by digest, so that a
# tag that is moved changes nothing here:
#   deploy/image/pin.sh            # needs skopeo, or docker with buildx, and the registries
# A digest is written only when a registry gave it; when one cannot be asked, nothing is changed.
# `name:tag` becomes `name:tag@sha256:...`; run it again to take over what a tag means today.
set -euo pipefail
folder=${LUNGSEG_PIN_FOLDER:-$(cd "$(dirname "$0")/../.." && pwd)}
files=("$folder/Dockerfile" "$folder/docker-compose.yml")

digest_of() {
    if command -v skopeo > /dev/null; then
        skopeo inspect --format '{{.Digest}}' "docker://$1"
    elif command -v docker > /dev/null; then
        docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$1"
    else
        echo "pin.sh: neither skopeo nor docker is installed; nothing was changed." >&2
        exit 3
    fi
}

qualified() {  # Docker's short names, written out
    case $1 in
        *.*/* | localhost/*) echo "$1" ;;
        */*) echo "docker.io/$1" ;;
        *) echo "docker.io/library/$1" ;;
    esac
}

# What is named with a tag, except what this repository builds itself.
images=$(sed -nE 's/^(ARG BASE_IMAGE=|    image: )([^@[:space:]]+:[^@[:space:]]+)(@sha256:[0-9a-f]+)?$/\2/p' \
    "${files[@]}" | grep -v '^adalora-qat:' | sort -u)
declare -A digests
for image in $images; do
    if ! digest=$(digest_of "$(qualified "$image")") || [[ ! $digest =~ ^sha256:[0-9a-f]{64}$ ]]; then
        echo "pin.sh: the digest of $image was not to be had; nothing was changed." >&2
        exit 1
    fi
    digests[$image]=$digest
done
for image in $images; do
    escaped=${image//./\\.}
    sed -i -E "s#^(ARG BASE_IMAGE=|    image: )$escaped(@sha256:[0-9a-f]+)?\$#\1$image@${digests[$image]}#" \
        "${files[@]}"
    echo "$image@${digests[$image]}"
done
