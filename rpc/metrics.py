"""What every service tells Prometheus: its calls, its event loop, its process. Labels are bounded, never a caller's.

A service registers collectors of its own beside these, in `Surroundings.registry`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from itertools import chain

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

# In newer formats names with a colon are rewritten, and vLLM's have one.
TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
CALL_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
LOOK_SECONDS = 0.25  # between two looks at the event loop
# Reasons of errors that are labels: more than the contract has. A service passes on what those behind it say, and that
# could be anything.
MAX_REASONS = 100
OTHER_REASON = "OTHER"

# Times of creation would be samples of their own, which nobody asks for.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics(Collector):
    """Metrics that are registered together."""

    def __init__(self, *collectors: Collector) -> None:
        self._collectors = collectors

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance: what a registry asks for to find names that are there twice."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All of them, as they are now."""
        return chain.from_iterable(collector.collect() for collector in self._collectors)


class CallMetrics(Metrics):
    """The calls of one service. `method`: a name of ours, or "unknown"; `code`: gRPC's name of the status.

    `reason`: the contract's, of calls that ended with an error.
    """

    def __init__(self) -> None:
        self._ended = Counter("tokenmill_calls", "Calls that have ended.", ("method", "code"), registry=None)
        self._seconds = Histogram(
            "tokenmill_call_seconds",
            "Duration of calls, whatever became of them.",
            ("method",),
            buckets=CALL_SECONDS,
            registry=None,
        )
        self._errors = Counter(
            "tokenmill_call_errors", "Calls that have ended with an error, by its reason.", ("reason",), registry=None
        )
        self._reasons: set[str] = set()
        super().__init__(self._ended, self._seconds, self._errors)

    def end(self, method: str, code: str, seconds: float, reason: str = "") -> None:
        """A call has ended; `reason`: of its error, if that has one."""
        self._ended.labels(method, code).inc()
        self._seconds.labels(method).observe(seconds)
        if reason:
            if len(self._reasons) < MAX_REASONS:
                self._reasons.add(reason)
            self._errors.labels(reason if reason in self._reasons else OTHER_REASON).inc()


class LoopMetrics(Metrics):
    """How late the event loop is."""

    def __init__(self) -> None:
        self._lag = Histogram(
            "tokenmill_event_loop_lag_seconds",
            "How much later than asked for the event loop has woken somebody.",
            buckets=LAG_SECONDS,
            registry=None,
        )
        super().__init__(self._lag)

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            began = time.monotonic()
            await asyncio.sleep(LOOK_SECONDS)
            self._lag.observe(max(0.0, time.monotonic() - began - LOOK_SECONDS))


class ServiceMetrics(Metrics):
    """Which service this is, and whether it takes calls."""

    def __init__(self, service: str, is_ready: Callable[[], bool], is_draining: Callable[[], bool]) -> None:
        super().__init__()
        self._service = service
        self._is_ready = is_ready
        self._is_draining = is_draining

    def collect(self) -> Iterator[Metric]:
        """All of it."""
        build = GaugeMetricFamily("tokenmill_build_info", "Always 1: what is running.", labels=("service", "version"))
        build.add_metric((self._service, version("tokenmill")), 1)
        ready = GaugeMetricFamily("tokenmill_ready", "1 if calls are welcome, as health says.", labels=("service",))
        ready.add_metric((self._service,), int(self._is_ready()))
        draining = GaugeMetricFamily(
            "tokenmill_draining", "1 from the signal to stop on, or drained.", labels=("service",)
        )
        draining.add_metric((self._service,), int(self._is_draining()))
        yield from (build, ready, draining)


def make_registry(*collectors: Collector) -> CollectorRegistry:
    """What one service tells: `collectors`, and its process."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    for collector in collectors:
        registry.register(collector)
    return registry


def text_of(registry: CollectorRegistry) -> bytes:
    """Everything in it, in Prometheus' text format 0.0.4. On the event loop: collectors look at what it owns."""
    return generate_latest(registry)
