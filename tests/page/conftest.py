"""The tests of the page need a browser, so only `make test-page` collects them."""

from __future__ import annotations

import os

collect_ignore_glob = [] if os.environ.get("TOKENMILL_TEST_PAGE") else ["test_*.py"]
