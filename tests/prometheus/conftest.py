"""What needs a real Prometheus only `make test-prometheus` collects."""

from __future__ import annotations

import os

collect_ignore_glob = [] if os.environ.get("TOKENMILL_TEST_PROMETHEUS") else ["test_scraped.py"]
