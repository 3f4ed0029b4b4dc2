"""What a trace is told of a request, in OpenTelemetry's words for generative AI: our own names and numbers, no text.

https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/
"""

from __future__ import annotations

import time
from collections.abc import Callable

from gateway.generation import (
    Event,
    FinishReason,
    Generation,
    OutputDelta,
    OutputFailed,
    OutputFinished,
    Started,
    TotalUsage,
)
from gateway.models import ServedModel
from rpc.tracing.span import Span, Value

PROVIDER = "tokenmill"
FAILED = "error"
# The words that callers of OpenAI's API know, and one of our own.
_REASONS = {
    FinishReason.END_OF_SEQUENCE: "stop",
    FinishReason.STOP_STRING: "stop",
    FinishReason.STOP_TOKEN: "stop",
    FinishReason.MAX_NEW_TOKENS: "length",
    FinishReason.CONTEXT_LENGTH: "length",
    FinishReason.TIME_LIMIT: "time_limit",
}


class RequestTrace:
    """One request; its span is the call's. Nothing is done where nobody records."""

    def __init__(
        self, span: Span, generation: Generation, total: TotalUsage, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`total`: what its outputs have used so far."""
        self._span = span
        self._generation = generation
        self._total = total
        self._clock = clock
        self._began = clock()
        self._has_begun = False
        self._reasons: dict[int, str] = {}  # by output

    def serve(self, model: ServedModel) -> None:
        """It has been found which model it is for. Until then the name is the caller's text."""
        if not self._span.is_recording:
            return
        generation = self._generation
        told: dict[str, Value] = {
            "gen_ai.operation.name": "chat" if generation.is_chat else "text_completion",
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.request.model": model.name,
            "gen_ai.response.model": model.name,
        }
        if generation.n > 1:
            told["gen_ai.request.choice.count"] = generation.n
        if generation.prompt_count > 1:
            told["tokenmill.prompts"] = generation.prompt_count
        self._span.set(told)

    def hear(self, event: Event) -> None:
        """Something happened to it."""
        if not self._span.is_recording:
            return
        match event:
            case Started():
                self._span.set(_effective(event))
            case OutputDelta():
                if not self._has_begun:
                    self._has_begun = True
                    self._span.set({"gen_ai.response.time_to_first_chunk": self._clock() - self._began})
            case OutputFinished():
                self._end(event.index, _REASONS[event.reason])
            case OutputFailed():
                self._end(event.index, FAILED)

    def _end(self, index: int, reason: str) -> None:
        """As far as it has come: whoever leaves before the end has used so much."""
        self._reasons[index] = reason
        total = self._total
        self._span.set(
            {
                "gen_ai.response.finish_reasons": [self._reasons[index] for index in sorted(self._reasons)],
                "gen_ai.usage.input_tokens": total.prompt_tokens,
                "gen_ai.usage.cache_read.input_tokens": total.cached_prompt_tokens,
                "gen_ai.usage.output_tokens": total.completion_tokens,
            }
        )


def _effective(started: Started) -> dict[str, Value]:
    """How its tokens are chosen, as far as there are words for it; a seed can have more digits than theirs."""
    sampling = started.sampling
    named = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
        "max_tokens": max(started.max_new_tokens, default=None),
    }
    return {f"gen_ai.request.{name}": value for name, value in named.items() if value is not None}
