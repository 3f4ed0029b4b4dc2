#!/usr/bin/env bash
# compile.sh UV: write the pins of every image, with the hashes of every file of each release, from pyproject.toml and
# constraints.txt. Pins that stand already stay as they are; ARGS=--upgrade lets them move as far as constraints.txt does.
#
# torch for CPUs is published apart from the registry. uv knows where; TORCH_WHEELS=FOLDER takes it from a folder instead.
set -euo pipefail
uv=$1
shift
cd "$(dirname "$0")/../../.."
out=deploy/images/requirements
# No header and no index: they would name this machine's paths and addresses.
common=(--quiet --no-config --python-version 3.11 --generate-hashes --no-header --no-annotate --only-binary :all:)
linux=(--python-platform x86_64-manylinux_2_28)

compile() { # NAME OPTION…: the pins of one image
  local name=$1
  shift
  "$uv" pip compile pyproject.toml --constraint constraints.txt "${common[@]}" "${linux[@]}" "$@" \
    --output-file "$out/$name.txt"
  echo "requirements: $out/$name.txt has $(grep -c '^[^ #]' "$out/$name.txt") packages"
}

torch_for_cpus=(--torch-backend cpu)
if [ -n "${TORCH_WHEELS:-}" ]; then
  torch_for_cpus=(--find-links "$TORCH_WHEELS")
fi
compile gateway --extra gateway --extra otel "$@"
compile tokenizer --extra tokenizer --extra otel "$@"
compile worker-cpu --extra worker --extra otel "${torch_for_cpus[@]}" "$@"
compile worker-cuda --extra worker --extra otel "$@"

# What builds our own wheel, in the build stage only.
python3 -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' |
  "$uv" pip compile - "${common[@]}" "$@" --output-file "$out/build.txt"
echo "requirements: $out/build.txt"
