"""What must hold of every history, whatever went wrong: each rule names what does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.faults.history import Began, Failed, Finished, Said

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tests.faults.history import History

ALLOWANCE_SECONDS = 3.0  # for a caller on a busy machine to notice that its deadline has passed


def is_not_lost(history: History) -> Iterator[str]:
    """A call ends by its deadline."""
    latest = history.deadline_seconds + ALLOWANCE_SECONDS
    if history.code is None:
        yield "lost: neither ended nor failed"
    elif history.seconds is None or history.seconds > latest:
        yield f"ended after {history.seconds} s, with a deadline of {history.deadline_seconds} s"


def begins_once_and_first(history: History) -> Iterator[str]:
    """`started` comes before everything else, and once."""
    places = [place for place, event in enumerate(history.events) if isinstance(event, Began)]
    if history.events and places != [0]:
        yield f"started at {places}"


def every_output_ends_once(history: History) -> Iterator[str]:
    """One terminal at most, nothing after it; exactly one where the call itself has not failed."""
    for index in range(len(history.expected)):
        own = [event for event in history.events if not isinstance(event, Began) and event.index == index]
        ends = [place for place, event in enumerate(own) if isinstance(event, Finished | Failed)]
        if len(ends) > 1:
            yield f"output {index} ends {len(ends)} times"
        if ends and ends[0] != len(own) - 1:
            yield f"output {index} goes on after its end"
        if not ends and history.code == "OK":
            yield f"output {index} does not end"


def says_what_an_undisturbed_run_says(history: History) -> Iterator[str]:
    """Tokens in order, none missing, none twice, none of another's: the beginning of what is expected, or all of it."""
    for index, expected in enumerate(history.expected):
        ids = tuple(token_id for said in history.said(index) for token_id in said.ids)
        if ids != expected.ids[: len(ids)]:
            yield f"output {index} has other tokens from {_first_difference(ids, expected.ids)} on"
        elif _finished(history, index) and ids != expected.ids:
            yield f"output {index} ends after {len(ids)} of {len(expected.ids)} tokens"


def text_is_that_of_an_undisturbed_run(history: History) -> Iterator[str]:
    """The deltas' text, put together, likewise."""
    for index, expected in enumerate(history.expected):
        text = "".join(said.text for said in history.said(index))
        if _finished(history, index):
            if text != expected.text:
                yield f"output {index} has another text from {_first_difference(text, expected.text)} on"
        elif not expected.text.startswith(text):
            yield f"output {index} began with another text"


def usage_is_what_was_delivered(history: History) -> Iterator[str]:
    """What a finished output is billed for is what its caller got."""
    for event in history.events:
        if isinstance(event, Finished):
            delivered = sum(len(said.ids) for said in history.said(event.index))
            if event.completion_tokens != delivered:
                yield f"output {event.index}: {event.completion_tokens} tokens counted, {delivered} delivered"
            if event.prompt_tokens != history.expected[event.index].prompt_tokens:
                yield f"output {event.index}: {event.prompt_tokens} tokens of prompt counted"


def no_delta_is_empty(history: History) -> Iterator[str]:
    """A message that says nothing is never sent."""
    if any(isinstance(event, Said) and not (event.ids or event.text) for event in history.events):
        yield "an empty delta"


RULES: tuple[Callable[[History], Iterable[str]], ...] = (
    is_not_lost,
    begins_once_and_first,
    every_output_ends_once,
    says_what_an_undisturbed_run_says,
    text_is_that_of_an_undisturbed_run,
    usage_is_what_was_delivered,
    no_delta_is_empty,
)


def violations(histories: Iterable[History]) -> list[str]:
    """Every breach of every rule, with the rule and the call."""
    return [
        f"call {number}, {rule.__name__}: {breach}"
        for number, history in enumerate(histories)
        for rule in RULES
        for breach in rule(history)
    ]


def _finished(history: History, index: int) -> bool:
    return any(isinstance(event, Finished) and event.index == index for event in history.events)


def _first_difference(one: tuple[int, ...] | str, other: tuple[int, ...] | str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (left, right) in pairs if left != right), min(len(one), len(other)))
