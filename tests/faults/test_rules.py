"""Each rule finds what it is there to find, and nothing in a history that is as it should be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.faults.history import Began, Expected, Failed, Finished, History, Said
from tests.faults.rules import ALLOWANCE_SECONDS, RULES, violations

if TYPE_CHECKING:
    from tests.faults.history import Event

EXPECTED = (Expected(3, (1, 2, 3, 4), "abcd"), Expected(3, (5, 6), "ef"))
ONE = [Said(0, (1, 2), "ab"), Said(0, (3,), ""), Said(0, (4,), "cd")]
OTHER = [Said(1, (5,), "e"), Said(1, (6,), "f")]
END, OTHER_END = Finished(0, 3, 4), Finished(1, 3, 2)
WHOLE: list[Event] = [Began(), *ONE, *OTHER, END, OTHER_END]


def history(*events: Event, **given: Any) -> History:
    given = {"code": "OK", "seconds": 1.0} | given
    return History(EXPECTED, 10.0, list(events), [float(place) for place in range(len(events))], **given)


SOUND = {
    "a whole answer": history(*WHOLE),
    "refused": history(code="UNAVAILABLE"),
    "broken off": history(Began(), *ONE[:2], *OTHER, OTHER_END, code="UNAVAILABLE"),
    "broken off between its end and its status": history(*WHOLE, code="UNAVAILABLE"),
    "one failed alone": history(Began(), *ONE, END, *OTHER[:1], Failed(1, "BAD_NUMBERS")),
    "as late as it may be": history(code="DEADLINE_EXCEEDED", seconds=10.0 + ALLOWANCE_SECONDS),
}


@pytest.mark.parametrize("name", SOUND)
def test_nothing_is_found_in_a_sound_history(name: str) -> None:
    assert violations([SOUND[name]]) == []


BROKEN = {
    "is_not_lost: lost": history(*WHOLE[:3], code=None, seconds=None),
    "is_not_lost: ended after 20.0 s": history(*WHOLE, seconds=20.0),
    "begins_once_and_first: started at []": history(*WHOLE[1:]),
    "begins_once_and_first: started at [0, 1]": history(Began(), *WHOLE),
    "begins_once_and_first: started at [1]": history(ONE[0], Began(), *ONE[1:], *OTHER, END, OTHER_END),
    "every_output_ends_once: output 0 ends 2 times": history(*WHOLE, END),
    "every_output_ends_once: output 1 ends 2 times": history(*WHOLE, Failed(1, "WORKER_LOST")),
    "every_output_ends_once: output 0 goes on": history(Began(), *ONE[:2], END, ONE[2], *OTHER, OTHER_END),
    "every_output_ends_once: output 1 does not end": history(*WHOLE[:-1]),
    "run_says: output 0 has other tokens from 2 on": history(Began(), ONE[0], ONE[2], code="UNAVAILABLE"),
    "run_says: output 0 has other tokens from 3 on": history(Began(), *ONE[:2], ONE[1], code="UNAVAILABLE"),
    "run_says: output 0 has other tokens from 0 on": history(Began(), Said(0, (5,), "a"), code="UNAVAILABLE"),
    "run_says: output 1 has other tokens from 1 on": history(Began(), *OTHER[::-1][1:], *OTHER[:1], code="UNAVAILABLE"),
    "run_says: output 0 has other tokens from 4 on": history(Began(), *ONE, Said(0, (5,), "e"), code="UNAVAILABLE"),
    "run_says: output 1 ends after 1 of 2 tokens": history(*WHOLE[:5], END, OTHER_END),
    "text_is_that_of_an_undisturbed_run: output 1 has another text from 1 on": history(*WHOLE[:5], END, OTHER_END),
    "text_is_that_of_an_undisturbed_run: output 0 began with": history(Began(), Said(0, (1,), "b"), code="UNAVAILABLE"),
    "usage_is_what_was_delivered: output 0: 5 tokens counted, 4 delivered": history(*WHOLE[:-2], Finished(0, 3, 5)),
    "usage_is_what_was_delivered: output 0: 7 tokens of prompt": history(*WHOLE[:-2], Finished(0, 7, 4)),
    "no_delta_is_empty": history(*WHOLE[:3], Said(0, (), ""), *WHOLE[3:]),
}


@pytest.mark.parametrize("words", BROKEN)
def test_what_breaks_a_rule_is_found(words: str) -> None:
    assert any(words in found for found in violations([SOUND["refused"], BROKEN[words]]))


def test_every_rule_has_a_history_that_breaks_it() -> None:
    assert all(any(list(rule(broken)) for broken in BROKEN.values()) for rule in RULES)
