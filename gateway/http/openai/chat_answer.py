"""`POST /v1/chat/completions`: what is answered."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from gateway.generation import Event, Generation, OutputDelta, OutputFailed, OutputFinished, Started, TotalUsage
from gateway.http.openai.chat import ChatBody
from gateway.http.openai.collected import Collected, CollectedOutput
from gateway.http.openai.terms import chat_logprobs, ending, failure, usage_of


class ChatSpeaker:
    """Owned by the request. Implements Speaker."""

    def __init__(self, body: ChatBody, generation: Generation, request_id: str) -> None:
        self._wants_usage = body.wants_usage
        self._logprobs = generation.logprobs is not None
        self._token_ids = generation.token_ids
        self._count = generation.n
        self._collected = Collected(self._count)
        self._model = ""
        self._id = f"chatcmpl-{request_id}"
        self._created = int(time.time())

    def chunks(self, heard: Event) -> Iterable[Any]:
        """A chunk for each; the first for each output says who speaks."""
        match heard:
            case Started(model):
                self._model = model
                for index in range(self._count):
                    yield self._chunk(index, {"role": "assistant", "content": ""})
            case OutputDelta(index, text, token_ids, logprobs):
                extra: dict[str, Any] = {"token_ids": list(token_ids)} if self._token_ids else {}
                if self._logprobs:
                    extra["logprobs"] = chat_logprobs(logprobs)
                yield self._chunk(index, {"content": text}, **extra)
            case OutputFinished(index):
                yield self._chunk(index, {}, **ending(heard))
            case OutputFailed(index, error):
                yield self._chunk(index, {}, **failure(error))

    def last_chunks(self, total: TotalUsage) -> Iterable[Any]:
        """The tokens counted, if asked for."""
        if self._wants_usage:
            yield {**self._head("chat.completion.chunk"), "choices": [], "usage": usage_of(total)}

    def collect(self, heard: Event) -> None:
        """Note it."""
        self._collected.add(heard)

    def whole(self, total: TotalUsage) -> Any:
        """All choices."""
        if self._collected.started is not None:
            self._model = self._collected.started.model
        choices = [self._choice(index, output) for index, output in enumerate(self._collected.outputs)]
        return {**self._head("chat.completion"), "choices": choices, "usage": usage_of(total)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}

    def _chunk(self, index: int, delta: dict[str, Any], **extra: Any) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None, **extra}
        usage = {"usage": None} if self._wants_usage else {}
        return {**self._head("chat.completion.chunk"), "choices": [choice], **usage}

    def _choice(self, index: int, output: CollectedOutput) -> dict[str, Any]:
        choice: dict[str, Any] = {
            "index": index,
            "message": {"role": "assistant", "content": output.text, "refusal": None},
            "logprobs": chat_logprobs(output.logprobs) if self._logprobs else None,
        }
        if self._token_ids:
            choice["token_ids"] = list(output.token_ids)
        if isinstance(output.end, OutputFinished):
            return {**choice, **ending(output.end)}
        return {**choice, **failure(output.end.error)} if output.end is not None else choice
