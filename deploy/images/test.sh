#!/usr/bin/env bash
# test.sh PYTHON MODEL_FOLDER: build the three images on a base made of Debian's packages, look into them, and run them by
# runc: nobody's user, a root that cannot be written, no capability; together they answer a chat. For Debian 12, as root.
# WORKER=cuda tries the worker's image for GPUs instead, on this machine's CPU: 4 GB more to fetch.
# Whatever pip is told on this machine (a proxy's authority, more wheels) is told to the build's, and stays out of images.
set -euo pipefail
python=$1
export TOKENMILL_DEMO_MODEL=$2
cd "$(dirname "$0")/../.."
worker=${WORKER:-cpu}
base=localhost/tokenmill-base:debian12

# As in python:3.11-slim, which stands on the same Debian: Python with its headers, and pip; no compiler.
in_base=python3,python3-venv,python3-pip,libpython3.11-dev,ca-certificates

need() { # PACKAGE…: on this machine
  dpkg-query --show "$@" > /dev/null 2>&1 && return
  if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    echo "images: needs root, and Debian's packages $*" >&2
    exit 1
  fi
  echo "images: installing $*"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" > /dev/null
}

make_base() {
  buildah inspect --type image "$base" > /dev/null 2>&1 && [ -z "${FRESH:-}" ] && return
  echo "images: making a base of Debian's packages"
  local container
  mmdebstrap --quiet --variant=minbase --include="$in_base" bookworm "$work/base.tar"
  container=$(buildah from scratch)
  buildah add --quiet "$container" "$work/base.tar" / > /dev/null
  buildah commit --quiet --rm "$container" "$base" > /dev/null
  rm "$work/base.tar"
}

# The authorities, and folders with wheels, that pip is told of here, as secrets and mounts of the build.
pass_pip_on() {
  local authorities wheels
  authorities=$(told cert PIP_CERT)
  wheels=$(told find-links PIP_FIND_LINKS)
  {
    echo "[global]"
    [ -z "$authorities" ] || echo "cert = /run/secrets/ca.pem"
    [ -z "$wheels" ] || echo "find-links = $wheels"
  } > "$work/pip.conf"
  export PIP_CONF=$work/pip.conf
  [ -z "$authorities" ] || export CA_FILE=$authorities
  local folder
  for folder in $wheels; do
    [ ! -d "$folder" ] || BUILD_FLAGS="${BUILD_FLAGS:-} --volume $folder:$folder:ro"
  done
  export BUILD_FLAGS=${BUILD_FLAGS:-}
}

told() { # OPTION VARIABLE: what pip is told
  echo "${!2:-$("$python" -m pip config get "global.$1" 2> /dev/null || true)}"
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[deploy]'
for file in deploy/images/*.Containerfile; do
  "$(dirname "$python")/hadolint" "$file"
done
echo "images: hadolint found nothing"

need buildah runc mmdebstrap golang-github-containers-common util-linux
make_base
pass_pip_on
export ENGINE=buildah BUILDAH_ISOLATION=chroot BASE_IMAGE=$base REPOSITORY=localhost TAG=test
echo "images: building"
if ! deploy/images/build.sh gateway tokenizer "worker-$worker" > "$work/log" 2>&1; then
  tail -n 40 "$work/log" >&2
  exit 1
fi
ours=localhost/tokenmill
export TOKENMILL_TEST_IMAGES="base=$base gateway=$ours-gateway:test tokenizer=$ours-tokenizer:test worker=$ours-worker:test-$worker"
"$python" -m pytest tests/images --timeout 900 -v
