"""What Prometheus is told of the gateway's requests, counted as it happens.

Labels are few and ours: names of models that are served, codes and reasons of the contract. No text, no tenant.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import Counter, Histogram

from gateway.deadline import Deadline
from gateway.generation import Event, Generation, OutputDelta, OutputFailed, OutputFinished, TotalUsage
from rpc.errors import ServiceError
from rpc.metrics import Metrics

QUEUE_SECONDS = (0.001, 0.005, 0.02, 0.08, 0.32, 0.64, 1.25, 2.5, 5, 10, 20, 40, 80)
FIRST_TOKEN_SECONDS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.25, 2.5, 5, 10, 20, 40, 80)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.25, 2.5)
REQUEST_SECONDS = (0.01, 0.04, 0.16, 0.64, 1.25, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
UNKNOWN_MODEL = ""  # of a request that got no further than its model's name
FAILED = "ERROR"
# There with zeros from a model's first request on: the first increase of what was not there is invisible to Prometheus.
USUAL_CODES = ("OK", "CANCELLED", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL")


class GatewayMetrics(Metrics):
    """The requests of one gateway; event loop only."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._models: set[str] = set()  # with a request so far
        model = ("model_name",)
        self._requests = Counter(
            "tokenmill_requests", "Requests that have ended, by status code.", (*model, "code"), registry=None
        )
        self._outputs = Counter(
            "tokenmill_outputs", "Outputs that have ended, by reason.", (*model, "finish_reason"), registry=None
        )
        self._prompt_tokens = Counter(
            "tokenmill_prompt_tokens", "Tokens of prompts whose outputs have ended.", model, registry=None
        )
        self._cached_tokens = Counter(
            "tokenmill_cached_prompt_tokens",
            "Those of them that a worker had computed before.",
            model,
            registry=None,
        )
        self._completion_tokens = Counter("tokenmill_completion_tokens", "Tokens generated.", model, registry=None)
        self._queue = Histogram(
            "tokenmill_queue_seconds",
            "From a request's arrival to its turn, if that came.",
            model,
            registry=None,
            buckets=QUEUE_SECONDS,
        )
        self._first_token = Histogram(
            "tokenmill_time_to_first_token_seconds",
            "From a request's arrival to the first of its outputs.",
            model,
            registry=None,
            buckets=FIRST_TOKEN_SECONDS,
        )
        self._each_token = Histogram(
            "tokenmill_time_per_output_token_seconds",
            "Of an output that has ended, after its first token.",
            model,
            registry=None,
            buckets=TOKEN_SECONDS,
        )
        self._request = Histogram(
            "tokenmill_request_seconds",
            "From a request's arrival to its end, if it ended well.",
            model,
            registry=None,
            buckets=REQUEST_SECONDS,
        )
        super().__init__(
            self._requests,
            self._outputs,
            self._prompt_tokens,
            self._cached_tokens,
            self._completion_tokens,
            self._queue,
            self._first_token,
            self._each_token,
            self._request,
        )

    @contextmanager
    def request(self, generation: Generation, total: TotalUsage, deadline: Deadline) -> Iterator[RequestMetrics]:
        """Count the body as a request, which tells what happens to it. `total`: what its outputs have used so far."""
        request = RequestMetrics(self, generation.prompt_count * generation.n, self._clock())
        code = "OK"
        try:
            yield request
        except ServiceError as error:
            code = error.code.name
            raise
        except Exception:
            code = "INTERNAL"
            raise
        except BaseException:  # its caller has left, or only does not wait for the end of the stream
            if not request.is_whole:
                code = "DEADLINE_EXCEEDED" if deadline.remaining() == 0 else "CANCELLED"
            raise
        finally:
            self._begin(request.model)
            self._requests.labels(request.model, code).inc()
            self._prompt_tokens.labels(request.model).inc(total.prompt_tokens)
            self._cached_tokens.labels(request.model).inc(total.cached_prompt_tokens)
            self._completion_tokens.labels(request.model).inc(total.completion_tokens)
            if code == "OK":
                self._request.labels(request.model).observe(self._clock() - request.began)

    def turn(self, model: str, seconds: float) -> None:
        """The turn of a request for `model`, or an adapter of it, has come after so long."""
        self._queue.labels(model).observe(seconds)

    def first_token(self, request: RequestMetrics) -> None:
        """Its first output has begun."""
        self._first_token.labels(request.model).observe(self._clock() - request.began)

    def ended(self, request: RequestMetrics, event: OutputFinished | OutputFailed) -> None:
        """One of its outputs has ended."""
        reason = event.reason.name if isinstance(event, OutputFinished) else FAILED
        self._outputs.labels(request.model, reason).inc()
        later_tokens = event.usage.completion_tokens - 1
        if isinstance(event, OutputFinished) and later_tokens > 0:
            seconds = event.timing.total - event.timing.time_to_first_token
            self._each_token.labels(request.model).observe(seconds / later_tokens)

    def _begin(self, model: str) -> None:
        """Have what was never heard of so far."""
        if model not in self._models:
            self._models.add(model)
            for code in USUAL_CODES:
                self._requests.labels(model, code)


class RequestMetrics:
    """One request. `model` is to be set as soon as it is known."""

    def __init__(self, metrics: GatewayMetrics, outputs: int, began: float) -> None:
        self.model = UNKNOWN_MODEL
        self.began = began
        self._metrics = metrics
        self._running = outputs
        self._has_begun = False

    @property
    def is_whole(self) -> bool:
        """Whether all of its outputs have ended."""
        return self._running == 0

    def hear(self, event: Event) -> None:
        """Something happened to it."""
        if isinstance(event, OutputDelta):
            if not self._has_begun:
                self._has_begun = True
                self._metrics.first_token(self)
        elif isinstance(event, OutputFinished | OutputFailed):
            self._running -= 1
            self._metrics.ended(self, event)
