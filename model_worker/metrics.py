"""What Prometheus is told of a worker. Where the meaning is vLLM's, so is the name: a row here is a request there.

https://docs.vllm.ai/en/stable/usage/metrics.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

from model_worker.batching.load import LoadSnapshot
from model_worker.batching.row_events import FailedEvent, FinishedEvent, RowEvent
from model_worker.batching.token_gaps import BOUNDS_SECONDS, TokenGaps
from model_worker.sequence import FinishReason
from rpc.metrics import Metrics

FIRST_TOKEN_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)
REQUEST_SECONDS = (0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960)
_REASONS = {
    FinishReason.END_OF_SEQUENCE: "stop",
    FinishReason.STOP_TOKEN: "stop",
    FinishReason.STOP_STRING: "stop",
    FinishReason.MAX_NEW_TOKENS: "length",
    FinishReason.CONTEXT_LENGTH: "length",
    FinishReason.TIME_LIMIT: "length",
}


class WorkerMetrics(Metrics):
    """The rows of one worker; event loop only."""

    def __init__(self, model: str, max_rows: int) -> None:
        """`model`: the name it is served by, a label of everything; adapters count with it.

        `max_rows`: that are computed at once.
        """
        self._model = model
        self._now = _Now(model, max_rows)
        self._succeeded = Counter(
            "vllm:request_success",
            "Rows that ended normally.",
            ("model_name", "finished_reason"),
            registry=None,
        )
        self._failed = Counter(
            "tokenmill_failed_rows", "Rows that failed, by reason.", ("model_name", "reason"), registry=None
        )
        self._prompt = self._counter("vllm:prompt_tokens", "Prompt tokens of rows that ended.")
        self._queried = self._counter("vllm:prefix_cache_queries", "The same: tokens that might have been reused.")
        self._hit = self._counter("vllm:prefix_cache_hits", "Prompt tokens that were reused instead of computed.")
        self._generated = self._counter("vllm:generation_tokens", "Tokens generated for rows that ended.")
        self._padding = self._counter("tokenmill_padding_tokens", "Tokens that came in tensors as padding.")
        self._first = self._histogram(
            "vllm:time_to_first_token_seconds", "Arrival to first token.", FIRST_TOKEN_SECONDS
        )
        self._each = self._histogram(
            "vllm:request_time_per_output_token_seconds", "Per token after the first, of a row.", TOKEN_SECONDS
        )
        self._total = self._histogram("vllm:e2e_request_latency_seconds", "Arrival to end.", REQUEST_SECONDS)
        self._queue = self._histogram("vllm:request_queue_time_seconds", "Arrival to admission.", REQUEST_SECONDS)
        self._prefill = self._histogram(
            "vllm:request_prefill_time_seconds", "Admission to first token.", REQUEST_SECONDS
        )
        self._decode = self._histogram("vllm:request_decode_time_seconds", "First token to last.", REQUEST_SECONDS)
        counters = (self._prompt, self._queried, self._hit, self._generated, self._padding)
        histograms = (self._first, self._each, self._total, self._queue, self._prefill, self._decode)
        super().__init__(self._now, self._succeeded, self._failed, *counters, *histograms)

    def follow(self, load: Callable[[], LoadSnapshot], gaps: TokenGaps) -> None:
        """Tell of `load` and `gaps` too, from now on: the worker has loaded."""
        self._now.load, self._now.gaps = load, gaps

    def ship(self, tensor_tokens: int, tokens: int) -> None:
        """Rows came in a tensor of so many tokens, of which so many are none of the padding."""
        self._padding.labels(self._model).inc(tensor_tokens - tokens)

    def hear(self, events: Sequence[RowEvent]) -> None:
        """Something happened to a call's rows."""
        for event in events:
            if isinstance(event, FinishedEvent):
                self._finish(event)
            elif isinstance(event, FailedEvent):
                self._failed.labels(self._model, event.reason).inc()

    def _finish(self, event: FinishedEvent) -> None:
        model, usage, timing = self._model, event.usage, event.timing
        self._succeeded.labels(model, _REASONS[event.reason]).inc()
        self._prompt.labels(model).inc(usage.prompt_tokens)
        self._queried.labels(model).inc(usage.prompt_tokens)
        self._hit.labels(model).inc(usage.cached_prompt_tokens)
        self._generated.labels(model).inc(usage.completion_tokens)
        self._queue.labels(model).observe(timing.queue_seconds)
        self._total.labels(model).observe(timing.total_seconds)
        if timing.time_to_first_token_seconds is None:
            return
        self._first.labels(model).observe(timing.time_to_first_token_seconds)
        self._prefill.labels(model).observe(timing.prefill_seconds)
        self._decode.labels(model).observe(timing.decode_seconds)
        if usage.completion_tokens > 1:
            self._each.labels(model).observe(timing.decode_seconds / (usage.completion_tokens - 1))

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, ("model_name",), registry=None)

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(name, text, ("model_name",), buckets=buckets, registry=None)


class _Now(Metrics):
    """The worker as of its latest step."""

    def __init__(self, model: str, max_rows: int) -> None:
        super().__init__()
        self._labels = (model,)
        self._max_rows = max_rows
        self.load: Callable[[], LoadSnapshot] = LoadSnapshot
        self.gaps = TokenGaps()

    def collect(self) -> Iterator[Metric]:
        """All of it."""
        load = self.load()
        used = load.kv_tokens_used / load.kv_tokens_total if load.kv_tokens_total else 0.0
        yield self._gauge("vllm:num_requests_running", "Rows that are computed.", load.running)
        yield self._gauge("vllm:num_requests_waiting", "Rows that wait.", load.waiting)
        yield self._gauge("vllm:kv_cache_usage_perc", "K/V memory in use, 1 is all of it.", used)
        yield self._gauge("tokenmill_worker_max_rows", "Rows that are computed at once, at most.", self._max_rows)
        yield self._gauge("tokenmill_worker_kv_tokens", "Tokens that K/V memory holds.", load.kv_tokens_total)
        yield self._counter("vllm:num_preemptions", "Rows that gave way to older ones.", load.preempted)
        yield self._counter("tokenmill_steps", "Steps computed.", load.step)
        yield self._counter("tokenmill_step_tokens", "Tokens computed in them.", load.step_tokens)
        yield self._token_gaps()

    def _token_gaps(self) -> Metric:
        name = "vllm:inter_token_latency_seconds"
        gaps = HistogramMetricFamily(name, "From a token of a row to its next.", labels=("model_name",))
        bounds = (*map(floatToGoString, BOUNDS_SECONDS), "+Inf")
        gaps.add_metric(self._labels, list(zip(bounds, self.gaps.cumulative(), strict=True)), self.gaps.sum_seconds)
        return gaps

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        gauge = GaugeMetricFamily(name, text, labels=("model_name",))
        gauge.add_metric(self._labels, value)
        return gauge

    def _counter(self, name: str, text: str, value: float) -> Metric:
        counter = CounterMetricFamily(name, text, labels=("model_name",))
        counter.add_metric(self._labels, value)
        return counter
