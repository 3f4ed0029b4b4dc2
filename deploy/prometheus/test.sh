#!/usr/bin/env bash
# deploy/prometheus/test.sh PYTHON: try the alerts' unit tests, and have a real Prometheus scrape the three services and
# evaluate every expression of dashboard and alerts. On Debian, Prometheus is unpacked into .venv if it is missing: a package
# that is installed would start a service.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$1
unpacked=$PWD/.venv/prometheus

if ! command -v prometheus > /dev/null || ! command -v promtool > /dev/null; then
  if [ ! -x "$unpacked/usr/bin/promtool" ]; then
    if ! command -v apt-get > /dev/null; then
      echo "prometheus: prometheus and promtool are missing" >&2
      exit 1
    fi
    echo "prometheus: fetching Debian's package"
    mkdir -p "$unpacked"
    [ "$(id -u)" != 0 ] || apt-get update -qq
    (cd "$unpacked" && apt-get download -qq prometheus && dpkg --extract prometheus_*.deb .)
  fi
  PATH=$unpacked/usr/bin:$PATH
fi
export TOKENMILL_TEST_PROMETHEUS=1
exec "$python" -m pytest tests/prometheus --timeout 300 -v
