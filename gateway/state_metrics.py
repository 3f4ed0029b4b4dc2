"""What Prometheus is told of the gateway's state, looked up when it asks.

A model that was ever served is there until this gateway ends, with zeros if need be: an alert or an autoscaler that
looks for what is not there finds nothing wrong.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from gateway.admission.lane import LaneState
from gateway.fleet.worker_state import WorkerState
from rpc.metrics import Metrics

NO_MODEL = ""  # of a worker that was never ready
MAX_MODELS = 1000  # that are remembered: names come from workers, which may be replaced for ever


class Admission(Protocol):
    """The requests, by model."""

    @property
    def models(self) -> Iterable[str]:
        """Those that were ever asked for."""
        ...

    def state(self, model: str) -> LaneState:
        """How many are worked on, how many wait, how many may."""
        ...


class Tier(Protocol):
    """The services of one kind."""

    @property
    def retries(self) -> int:
        """How often another one was asked, or went on."""
        ...

    @property
    def open_breakers(self) -> int:
        """How many are ready, have failed again and again, and not answered since."""
        ...


class Workers(Tier, Protocol):
    """The workers, as they are now."""

    @property
    def refused_workers(self) -> int:
        """How many had another vocabulary than the tokenizer service."""
        ...

    @property
    def sent_tokens(self) -> Mapping[str, int]:
        """How many, padding included, by model."""
        ...

    @property
    def sent_padding_tokens(self) -> Mapping[str, int]:
        """How many of them were padding."""
        ...

    def states(self) -> Sequence[WorkerState]:
        """Every one of them."""
        ...


class Tokenizers(Tier, Protocol):
    """The tokenizer services, as they are now."""

    @property
    def ready(self) -> int:
        """How many are."""
        ...


class StateMetrics(Metrics):
    """What there is at the moment; event loop only."""

    def __init__(self, admission: Admission, workers: Workers, tokenizers: Tokenizers) -> None:
        super().__init__()
        self._admission = admission
        self._workers = workers
        self._tokenizers = tokenizers
        self._models: dict[str, None] = {}  # that are served, or were; in order

    def collect(self) -> Iterator[Metric]:
        """All of it."""
        of_model: dict[str, list[WorkerState]] = defaultdict(list)
        for state in self._workers.states():
            of_model[state.models[0] if state.models else NO_MODEL].append(state)
        for name in (*of_model, *self._admission.models):
            if name != NO_MODEL and len(self._models) < MAX_MODELS:
                self._models[name] = None
        yield from self._of_requests()
        yield from _of_workers({name: of_model[name] for name in dict.fromkeys((*self._models, *of_model))})
        yield from self._of_the_fleet()

    def _of_requests(self) -> Iterator[Metric]:
        running = _gauge("tokenmill_requests_running", "Requests worked on.")
        waiting = _gauge("tokenmill_requests_waiting", "Requests that wait.")
        most = _gauge("tokenmill_requests_waiting_limit", "Requests that may wait.")
        tokens = _gauge("tokenmill_waiting_tokens", "Tokens that requests come to which wait, as estimated.")
        most_tokens = _gauge("tokenmill_waiting_tokens_limit", "Tokens that may wait.")
        families = running, waiting, tokens, most, most_tokens
        for name in self._models:
            for family, value in zip(families, self._admission.state(name), strict=True):
                family.add_metric((name,), value)
        return iter(families)

    def _of_the_fleet(self) -> Iterator[Metric]:
        tiers: dict[str, Tier] = {"worker": self._workers, "tokenizer": self._tokenizers}
        yield GaugeMetricFamily("tokenmill_tokenizers_ready", "Tokenizer services.", self._tokenizers.ready)
        retries = CounterMetricFamily("tokenmill_retries", "Attempts after a lost one.", labels=("tier",))
        broken = GaugeMetricFamily(
            "tokenmill_breakers_open", "Who is ready and fails again and again.", labels=("tier",)
        )
        for tier, pool in tiers.items():
            retries.add_metric((tier,), pool.retries)
            broken.add_metric((tier,), pool.open_breakers)
        yield retries
        yield broken
        yield CounterMetricFamily(
            "tokenmill_refused_workers",
            "Workers with another vocabulary than the tokenizer service.",
            self._workers.refused_workers,
        )
        sent = _counter("tokenmill_sent_tokens", "Tokens in tensors that were sent to workers, padding included.")
        padding = _counter("tokenmill_sent_padding_tokens", "Those of them that were padding.")
        for family, counts in ((sent, self._workers.sent_tokens), (padding, self._workers.sent_padding_tokens)):
            for name, count in counts.items():
                family.add_metric((name,), count)
            yield family


def _of_workers(of_model: Mapping[str, Sequence[WorkerState]]) -> Iterator[Metric]:
    workers = _gauge("tokenmill_workers", "Workers by model and state.", "state")
    rows = _gauge("tokenmill_rows", "Rows at workers by model and state.", "state")
    most_rows = _gauge("tokenmill_rows_limit", "Rows that workers compute at once.")
    used = _gauge("tokenmill_kv_tokens_used", "Tokens in K/V memory.")
    capacity = _gauge("tokenmill_kv_tokens_capacity", "Tokens that K/V memory holds.")
    for name, states in of_model.items():
        ready = [state for state in states if state.ready and not state.refused]
        refused = sum(state.ready and state.refused for state in states)
        workers.add_metric((name, "ready"), len(ready))
        workers.add_metric((name, "refused"), refused)
        workers.add_metric((name, "not_ready"), len(states) - len(ready) - refused)
        rows.add_metric((name, "running"), sum(state.running for state in ready))
        rows.add_metric((name, "waiting"), sum(state.waiting for state in ready))
        most_rows.add_metric((name,), sum(state.max_rows for state in ready))
        used.add_metric((name,), sum(state.kv_tokens_used for state in ready))
        capacity.add_metric((name,), sum(state.kv_tokens_total for state in ready))
    return iter((workers, rows, most_rows, used, capacity))


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=("model_name", *labels))


def _counter(name: str, text: str) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, labels=("model_name",))
