"""Scripts say what they may, and what they may not is refused by its name."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from model_worker.engines.script import FaultRule, Script, read_script
from model_worker.loading.load_errors import LoadError

if TYPE_CHECKING:
    from pathlib import Path


def written(folder: Path, content: Any) -> Path:
    file = folder / "script.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def test_an_empty_script_is_the_fake_engine(tmp_path: Path) -> None:
    assert read_script(written(tmp_path, {}), 10) == Script()


def test_a_script_says_it_all(tmp_path: Path) -> None:
    content = {
        "ids": [1, 2, 3],
        "seconds_per_step": 0.01,
        "seconds_per_token": 0.001,
        "context_length": 100,
        "kv_capacity_tokens": 300,
        "eos_token_id": 9,
        "eos_after": 20,
        "faults": [
            {"at_step": 5, "what": "stall", "seconds": 2},
            {"prompt_has": 7, "after_tokens": 3, "what": "fail_row"},
        ],
    }
    faults = (FaultRule("stall", at_step=5, seconds=2), FaultRule("fail_row", prompt_has=7, after_tokens=3))
    assert read_script(written(tmp_path, content), 10) == Script((1, 2, 3), 0.01, 0.001, 100, 300, 9, 20, faults)


FAULT = {"at_step": 5, "what": "exit"}
REFUSED = [
    ("[]", "is not a JSON object"),
    ("{", "is not valid JSON"),
    ({"colour": 1}, "colour is unknown"),
    ({"ids": 5}, "ids must be a list of at most 100000, not 5"),
    ({"ids": [1, 10]}, "ids[1] must be a token id below 10, not 10"),
    ({"ids": [True]}, "ids[0] must be a token id below 10, not True"),
    ({"ids": None}, "ids must be a list of at most 100000, not None"),
    ({"seconds_per_step": -1}, "seconds_per_step must be a number from 0 to 3600, not -1"),
    ('{"seconds_per_token": NaN}', "seconds_per_token must be a number from 0 to 3600, not nan"),
    ({"seconds_per_token": "1"}, "seconds_per_token must be a number from 0 to 3600, not '1'"),
    ({"context_length": 2.5}, "context_length must be an integer from 2 to 16777216, not 2.5"),
    ({"kv_capacity_tokens": 2**40}, "kv_capacity_tokens must be an integer from 1 to 16777216, not 1099511627776"),
    ({"eos_token_id": 10, "eos_after": 3}, "eos_token_id must be an integer from 0 to 9, not 10"),
    ({"eos_after": 3}, "eos_after needs eos_token_id"),
    ({"faults": [FAULT, 1]}, "faults[1] must be an object, not 1"),
    ({"faults": [FAULT] * 1001}, "faults must be a list of at most 1000"),
    ({"faults": [FAULT, {"at_step": 5}]}, "faults[1].what must be one of stall, fail_row, out_of_memory, break, exit"),
    ({"faults": [FAULT | {"what": ["exit"]}]}, "faults[0].what must be one of"),
    ({"faults": [FAULT | {"at_step": 0}]}, "faults[0].at_step must be an integer from 1"),
    ({"faults": [FAULT | {"colour": 1}]}, "faults[0].colour is unknown"),
    ({"faults": [FAULT | {"prompt_has": 1}]}, "faults[0].needs one of at_step and prompt_has"),
    ({"faults": [{"what": "exit"}]}, "faults[0].needs one of at_step and prompt_has"),
    ({"faults": [FAULT | {"after_tokens": 1}]}, "faults[0].after_tokens needs prompt_has"),
    ({"faults": [FAULT | {"what": "stall"}]}, "faults[0].seconds are for a stall, which needs them"),
    ({"faults": [FAULT | {"seconds": 1}]}, "faults[0].seconds are for a stall, which needs them"),
]


@pytest.mark.parametrize(("content", "words"), REFUSED)
def test_what_a_script_may_not_say_is_refused_by_file_and_field(tmp_path: Path, content: Any, words: str) -> None:
    file = written(tmp_path, content)
    with pytest.raises(LoadError, match=f"{re.escape(str(file))}.*{re.escape(words)}"):
        read_script(file, 10)


def test_a_script_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"none\.json cannot be read"):
        read_script(tmp_path / "none.json", 10)
