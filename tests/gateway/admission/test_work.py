from __future__ import annotations

from array import array
from typing import Any

import pytest

from gateway.admission.work import Work, estimated, planned
from gateway.generation import EncodedPrompts, Generation, Stopping
from gateway.row_plan import plan_rows
from tests.gateway.test_pipeline import model

TEN = Stopping(max_new_tokens=10)


def generation(**given: Any) -> Generation:
    return Generation(**({"model": "tiny", "prompt": None, "stopping": TEN} | given))


def ids(*lengths: int) -> list[array[int]]:
    return [array("i", [5] * length) for length in lengths]


@pytest.mark.parametrize(
    ("asked", "work"),
    [
        (generation(token_prompts=ids(3)), Work(1, 13)),
        (generation(token_prompts=ids(3, 5), prompt_count=2), Work(2, 28)),
        (generation(token_prompts=ids(300), n=4), Work(4, 340)),
        (generation(token_prompts=ids(3), stopping=Stopping()), Work(1, 103)),
        (generation(token_prompts=ids(995)), Work(1, 1000)),
    ],
    ids=["one", "two prompts", "samples share their prompt", "no bound but the default", "no room for more"],
)
def test_ids_are_counted_and_the_plan_says_the_same(asked: Generation, work: Work):
    assert estimated(asked, model()) == work
    plan = plan_rows(asked, EncodedPrompts(asked.token_prompts, "f"), model(), {}, elapsed_seconds=0.0)
    assert planned(plan) == work


@pytest.mark.parametrize(
    ("asked", "tokens"),
    [
        (generation(prompt_bytes=400), 101 + 10),
        (generation(prompt_bytes=400, prompt_count=2, n=3), 2 * (51 + 30)),
        (generation(prompt_bytes=400, truncate_prompt_tokens=7), 17),
        (generation(prompt_bytes=10**6), 1000),
        (generation(prompt_bytes=10**6, n=2), 999 + 2),
    ],
    ids=["by its bytes", "shared alike", "truncated", "never more than the context", "nor for each sample"],
)
def test_text_is_estimated(asked: Generation, tokens: int):
    assert estimated(asked, model()).tokens == tokens
