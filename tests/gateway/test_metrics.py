"""What the metrics say of requests, however they end."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from gateway.deadline import Deadline
from gateway.generation import (
    Event,
    FinishReason,
    Generation,
    OutputDelta,
    OutputFailed,
    OutputFinished,
    Timing,
    TotalUsage,
    Usage,
)
from gateway.metrics import USUAL_CODES, GatewayMetrics
from rpc.errors import internal, unavailable
from rpc.metrics import make_registry, text_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prometheus_client.registry import Collector

MODEL = "small"
DELTA = OutputDelta(0, "x", array("i"))


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def make(clock: Clock | None = None) -> GatewayMetrics:
    return GatewayMetrics(clock or Clock())


def samples(metrics: Collector) -> Mapping[tuple[str, ...], float]:
    """By name and the values of labels, which the text sorts by their names."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text_of(make_registry(metrics)).decode())
        for sample in family.samples
    }


def finished(index: int = 0, reason: FinishReason = FinishReason.MAX_NEW_TOKENS) -> OutputFinished:
    timing = Timing(time_to_first_token=1.0, total=3.0)
    return OutputFinished(index, reason, None, None, 7, Usage(10, 4, 5), timing)


def tell(metrics: GatewayMetrics, *events: Event, n: int = 1, error: BaseException | None = None) -> None:
    """A request with these events, in which `error` is raised."""
    total = TotalUsage(n)
    with metrics.request(Generation(MODEL, None, n=n), total, Deadline()) as request:
        request.model = MODEL
        for event in events:
            if isinstance(event, OutputFinished | OutputFailed):
                total.add(event.index, event.usage)
            request.hear(event)
        if error is not None:
            raise error


def test_a_request_that_ends_well_is_counted_with_its_tokens_and_times():
    clock = Clock()
    metrics = make(clock=clock)
    with metrics.request(Generation(MODEL, None), total := TotalUsage(1), Deadline()) as request:
        request.model = MODEL
        clock.now += 0.3
        request.hear(DELTA)
        request.hear(DELTA)
        end = finished()
        total.add(0, end.usage)
        request.hear(end)
        clock.now += 1.7
    told = samples(metrics)
    assert told["tokenmill_requests_total", "OK", MODEL] == 1
    assert told["tokenmill_outputs_total", "MAX_NEW_TOKENS", MODEL] == 1
    assert told["tokenmill_prompt_tokens_total", MODEL] == 10
    assert told["tokenmill_cached_prompt_tokens_total", MODEL] == 4
    assert told["tokenmill_completion_tokens_total", MODEL] == 5
    assert told["tokenmill_time_to_first_token_seconds_sum", MODEL] == pytest.approx(0.3)
    assert told["tokenmill_time_per_output_token_seconds_sum", MODEL] == pytest.approx(0.5)
    assert told["tokenmill_request_seconds_sum", MODEL] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (unavailable("NO_WORKER", "none"), "UNAVAILABLE"),
        (ValueError("ours"), "INTERNAL"),
        (GeneratorExit(), "CANCELLED"),
        (KeyboardInterrupt(), "CANCELLED"),
    ],
)
def test_a_request_that_fails_is_counted_by_its_code(error: BaseException, code: str):
    metrics = make()
    with pytest.raises(type(error)):
        tell(metrics, DELTA, error=error)
    told = samples(metrics)
    assert told["tokenmill_requests_total", code, MODEL] == 1
    assert told["tokenmill_time_to_first_token_seconds_count", MODEL] == 1
    assert ("tokenmill_request_seconds_count", MODEL) not in told


def test_a_caller_who_leaves_after_the_last_output_has_had_all_of_it():
    metrics = make()
    with pytest.raises(GeneratorExit):
        tell(metrics, finished(), error=GeneratorExit())
    assert samples(metrics)["tokenmill_requests_total", "OK", MODEL] == 1


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=6))
def test_every_output_is_counted_once_and_every_prompt_once(fails: list[bool]):
    metrics = make()
    ends = [
        OutputFailed(index, internal(), Usage(10, 0, 2)) if fail else finished(index)
        for index, fail in enumerate(fails)
    ]
    tell(metrics, *ends, n=len(fails))
    told = samples(metrics)
    assert told.get(("tokenmill_outputs_total", "ERROR", MODEL), 0) == sum(fails)
    assert told.get(("tokenmill_outputs_total", "MAX_NEW_TOKENS", MODEL), 0) == len(fails) - sum(fails)
    assert told["tokenmill_prompt_tokens_total", MODEL] == 10
    assert told["tokenmill_completion_tokens_total", MODEL] == sum(2 if fail else 5 for fail in fails)


def test_a_model_that_is_not_found_is_not_a_label():
    metrics = make()
    for name in ("a", "b", "c"):
        with (
            pytest.raises(KeyError),
            metrics.request(Generation(name, None), TotalUsage(1), Deadline()),
        ):
            raise KeyError(name)
    requests = {key: value for key, value in samples(metrics).items() if key[0] == "tokenmill_requests_total"}
    assert requests.pop(("tokenmill_requests_total", "INTERNAL", "")) == 3
    assert requests == {("tokenmill_requests_total", code, ""): 0 for code in USUAL_CODES if code != "INTERNAL"}


def test_how_long_turns_took_to_come_is_counted_by_model():
    metrics = make()
    for seconds in (0.25, 0.5):
        metrics.turn(MODEL, seconds)
    told = samples(metrics)
    assert told["tokenmill_queue_seconds_count", MODEL] == 2
    assert told["tokenmill_queue_seconds_sum", MODEL] == 0.75
