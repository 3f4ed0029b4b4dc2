#!/usr/bin/env bash
# tests/page/test.sh PYTHON MODEL_FOLDER: drive the page with a headless Chromium, against the three services on a real
# model, and take the screenshots in docs/images. On Debian, as root, install the browser if it is missing.
set -euo pipefail
python=$1
export TOKENMILL_DEMO_MODEL=$2 TOKENMILL_TEST_PAGE=1
cd "$(dirname "$0")/../.."

if ! command -v chromium > /dev/null; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    echo "page: chromium is missing" >&2
    exit 1
  fi
  echo "page: installing chromium"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core > /dev/null
fi
"$python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[page]'
exec "$python" -m pytest tests/page --timeout 600 -v
