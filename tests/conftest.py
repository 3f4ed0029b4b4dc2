"""What every test runs under. Kept free of heavy imports: most tests need neither torch nor transformers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before any library reads them: nothing is fetched, and one test does not take the cores of another.
for _name, _value in {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
}.items():
    os.environ.setdefault(_name, _value)

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The folder of the demo model; TOKENMILL_DEMO_MODEL names it where it is not in the usual place."""
    folder = Path(os.environ.get("TOKENMILL_DEMO_MODEL") or REPOSITORY / ".models" / "smollm2-135m-instruct")
    if not (folder / "config.json").is_file():
        pytest.fail("the demo model is missing: run `make model`")
    return folder
