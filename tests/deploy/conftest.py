"""The tests of the chart need helm, so only `make chart` collects them."""

from __future__ import annotations

import os

collect_ignore_glob = [] if os.environ.get("TOKENMILL_TEST_CHART") else ["chart/test_*.py"]
