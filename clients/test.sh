#!/usr/bin/env bash
# clients/test.sh PYTHON MODEL_FOLDER: build the clients, then try them and buf curl against a gateway with canned answers
# and against the three services on a real model.
set -euo pipefail
python=$1
export TOKENMILL_DEMO_MODEL=$2 TOKENMILL_TEST_CLIENTS=1
cd "$(dirname "$0")/.."
clients/build.sh
exec "$python" -m pytest tests/clients --timeout 600 -v
