"""`POST /v1/responses`: what is answered, whole or as a stream of named events."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

from gateway.generation import Event, FinishReason, OutputDelta, OutputFinished, Started
from gateway.http.messages import Answer, Events, dumped, event, json_answer
from gateway.http.openai.collected import Collected
from gateway.http.openai.responses_body import ResponsesBody
from gateway.http.openai.terms import chat_logprobs

# Why a response is incomplete; what is not here has come to its own end.
_INCOMPLETE = {
    FinishReason.MAX_NEW_TOKENS: "max_output_tokens",
    FinishReason.CONTEXT_LENGTH: "max_output_tokens",
    FinishReason.TIME_LIMIT: "max_output_tokens",
}


class ResponseSpeaker:
    """Owned by the request; its one output is one message."""

    def __init__(self, body: ResponsesBody, request_id: str) -> None:
        self._body = body
        self._collected = Collected(1)
        self._created = int(time.time())
        self._response_id, self._item_id = f"resp_{request_id}", f"msg_{request_id}"
        self._number = 0

    async def answer(self, events: AsyncGenerator[Event, None]) -> Answer:
        """Wait for all `events`. Errors: ServiceError."""
        async with aclosing(events):
            async for heard in events:
                self._collected.add(heard)
        return json_answer(self._response(self._status))

    def stream(self, events: AsyncGenerator[Event, None]) -> Events:
        """Tell `events` as they come. Errors, while it is read: ServiceError."""
        return Events(self._told(events))

    async def _told(self, events: AsyncGenerator[Event, None]) -> AsyncGenerator[bytes, None]:
        async with aclosing(events):
            async for heard in events:
                self._collected.add(heard)
                for one in self._said(heard):
                    yield one

    def _said(self, heard: Event) -> Iterator[bytes]:
        place = {"item_id": self._item_id, "output_index": 0, "content_index": 0}
        match heard:
            case Started():
                yield self._event("response.created", response=self._response("in_progress"))
                yield self._event("response.in_progress", response=self._response("in_progress"))
                item = self._message("in_progress", [])
                yield self._event("response.output_item.added", output_index=0, item=item)
                yield self._event("response.content_part.added", **place, part=self._part(""))
            case OutputDelta(text=text, logprobs=logprobs):
                told = chat_logprobs(logprobs)["content"] if self._body.wants_logprobs else []
                yield self._event("response.output_text.delta", **place, delta=text, logprobs=told)
            case OutputFinished():
                status, part = self._status, self._content()
                yield self._event("response.output_text.done", **place, text=part["text"], logprobs=part["logprobs"])
                yield self._event("response.content_part.done", **place, part=part)
                item = self._message(status, [part])
                yield self._event("response.output_item.done", output_index=0, item=item)
                yield self._event(f"response.{status}", response=self._response(status))

    def _event(self, kind: str, **fields: Any) -> bytes:
        data = dumped({"type": kind, "sequence_number": self._number, **fields})
        self._number += 1
        return event(data, kind)

    @property
    def _finished(self) -> OutputFinished | None:
        end = self._collected.outputs[0].end
        return end if isinstance(end, OutputFinished) else None

    @property
    def _status(self) -> str:
        return "incomplete" if self._finished and self._finished.reason in _INCOMPLETE else "completed"

    def _content(self) -> dict[str, Any]:
        output = self._collected.outputs[0]
        logprobs = chat_logprobs(output.logprobs)["content"] if self._body.wants_logprobs else []
        return {**self._part(output.text), "logprobs": logprobs}

    def _part(self, text: str) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def _message(self, status: str, content: list[Any]) -> dict[str, Any]:
        return {"type": "message", "id": self._item_id, "status": status, "role": "assistant", "content": content}

    def _response(self, status: str) -> dict[str, Any]:
        started, finished = self._collected.started, self._finished
        body = self._body
        incomplete = _INCOMPLETE.get(finished.reason) if finished else None
        return {
            "id": self._response_id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": incomplete} if incomplete else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": started.model if started else body.model,
            "output": [self._message(status, [self._content()])] if finished else [],
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "store": False,
            "temperature": started.sampling.temperature if started else body.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": "none",
            "tools": [],
            "top_p": started.sampling.top_p if started else body.top_p,
            "truncation": "disabled",
            "usage": _usage(finished) if finished else None,
        }


def _usage(finished: OutputFinished) -> dict[str, Any]:
    usage = finished.usage
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_prompt_tokens},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
