"""What Prometheus is told of a tokenizer service beside its calls, which say how long encoding takes."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Counter
from prometheus_client.core import GaugeMetricFamily, Metric

from rpc.metrics import Metrics
from tokenizer_service.work_pool import WorkPool


class TokenizerMetrics(Metrics):
    """Event loop only."""

    def __init__(self, pool: WorkPool) -> None:
        self._pool = pool
        self._encoded = Counter("tokenmill_encoded_tokens", "Tokens of prompts.", ("model_name",), registry=None)
        super().__init__(self._encoded)

    def encode(self, model: str, tokens: int) -> None:
        """A prompt, or several, came to so many tokens."""
        self._encoded.labels(model).inc(tokens)

    def collect(self) -> Iterator[Metric]:
        """All of it."""
        yield from super().collect()
        yield GaugeMetricFamily("tokenmill_encoding_waiting", "Texts that wait for a thread.", self._pool.waiting)
