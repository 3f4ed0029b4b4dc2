"""The second baseline: transformers' own continuous batching, in process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from transformers import ContinuousBatchingConfig, GenerationConfig

from benchmarks.load.requests import Request
from benchmarks.load.statistics import Summary, decode_tokens_per_second, summarize
from benchmarks.load.trace import Trace
from benchmarks.subjects.remote import SubjectError
from benchmarks.subjects.transformers_model import greedy_options, load_float32

# Left to itself it takes 60 % of the machine's memory for its cache, which takes half a minute to fill with zeros.
PAGE_TOKENS = 32
CACHE_TOKENS = 32 * 1024
ANSWER_SECONDS = 900.0


class ContinuousSubject:
    """`model.continuous_batching_context_manager()` in float32.

    Not under `inference_mode`: its thread changes tensors in place that were made outside, which torch refuses there.
    """

    def __init__(self, model: Path) -> None:
        self._model = load_float32(model)

    def closed(self, requests: Sequence[Request], in_flight: int) -> Summary:
        """All `requests` are queued at once; it works on `in_flight` of them at a time."""
        return summarize(self._run(requests, in_flight))

    def decode(self, requests: Sequence[Request]) -> float:
        """Tokens per second while all `requests` decode together."""
        return decode_tokens_per_second(self._run(requests, len(requests)))

    def _run(self, requests: Sequence[Request], in_flight: int) -> list[Trace]:
        limits = ContinuousBatchingConfig(
            page_size=PAGE_TOKENS,
            num_blocks=CACHE_TOKENS // PAGE_TOKENS,
            max_batch_tokens=512,
            max_requests_per_batch=in_flight,
        )
        options = greedy_options(self._model, max(request.max_new_tokens for request in requests))
        config = GenerationConfig(**options)
        with self._model.continuous_batching_context_manager(config, continuous_batching_config=limits) as manager:
            traces = {}
            for request in requests:
                name = manager.add_request(
                    list(request.ids), max_new_tokens=request.max_new_tokens, record_timestamps=True
                )
                traces[name] = Trace(len(request.ids))
            for _ in requests:
                _hear(manager.get_result(timeout=ANSWER_SECONDS), traces)
        return list(traces.values())


def _hear(output: object, traces: dict[str, Trace]) -> None:
    """Note what came of one request. Errors: SubjectError."""
    error, name = getattr(output, "error", "no answer"), getattr(output, "request_id", "")
    if error is not None:
        raise SubjectError(str(error))
    trace = traces[name]
    times: list[float] = getattr(output, "timestamps", [])
    trace.arrivals = [(when, 1) for when in times]
    trace.tokens = len(times)
    trace.ended_at = time.perf_counter()
