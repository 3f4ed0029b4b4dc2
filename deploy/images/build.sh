#!/usr/bin/env bash
# build.sh [IMAGE…]: build the images with docker, podman or buildah, whichever is there. IMAGE is gateway, tokenizer,
# worker-cpu or worker-cuda; without one, all but worker-cuda.
#
#   ENGINE        docker, podman or buildah; default: the first of them that answers
#   BASE_IMAGE    what the images stand on, with Python 3.11 and pip; by digest, where they have to be the same again
#   REPOSITORY    what comes before each image's name, as of a registry
#   TAG           default: the version in pyproject.toml; a worker's ends in -cpu or -cuda
#   PLATFORM      such as linux/amd64; default: this machine's
#   PIP_CONF      a pip.conf for the build: another index, a proxy, one more index for torch; a secret, in no layer
#   CA_FILE       authorities in PEM for it, at /run/secrets/ca.pem; a secret, too
#   BUILD_FLAGS   further flags, such as "--build-arg COMPILER_PACKAGES= --no-cache"
set -euo pipefail
cd "$(dirname "$0")/../.."

engine() {
  local candidate
  for candidate in docker podman buildah; do
    # A client without its daemon is there, and of no use.
    if command -v "$candidate" > /dev/null && "$candidate" info > /dev/null 2>&1; then
      echo "$candidate"
      return
    fi
  done
  echo "build: neither docker nor podman nor buildah answers here" >&2
  return 1
}

build() { # CONTAINERFILE NAME OPTION…
  local containerfile=$1 name=$2
  shift 2
  echo "build: $name ($ENGINE)"
  # shellcheck disable=SC2086 # flags are words
  "$ENGINE" build --file "deploy/images/$containerfile.Containerfile" --tag "$name" \
    --build-arg "VERSION=$version" --build-arg "REVISION=$revision" "${common[@]}" "$@" ${BUILD_FLAGS:-} .
}

ENGINE=${ENGINE:-$(engine)}
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
revision=$(git describe --always --dirty --abbrev=40 --exclude '*' 2> /dev/null || echo unknown)
prefix=${REPOSITORY:+${REPOSITORY%/}/}
tag=${TAG:-$version}
common=()
[ -z "${BASE_IMAGE:-}" ] || common+=(--build-arg "BASE_IMAGE=$BASE_IMAGE")
[ -z "${PLATFORM:-}" ] || common+=(--platform "$PLATFORM")
[ -z "${PIP_CONF:-}" ] || common+=(--secret "id=pip.conf,src=$PIP_CONF")
[ -z "${CA_FILE:-}" ] || common+=(--secret "id=ca.pem,src=$CA_FILE")

[ $# -gt 0 ] || set -- gateway tokenizer worker-cpu
for image in "$@"; do
  case $image in
    gateway | tokenizer) build "$image" "${prefix}tokenmill-$image:$tag" ;;
    worker-cpu | worker-cuda)
      build worker "${prefix}tokenmill-worker:$tag-${image#worker-}" --build-arg "VARIANT=${image#worker-}"
      ;;
    *)
      echo "build: there is no image $image" >&2
      exit 2
      ;;
  esac
done
