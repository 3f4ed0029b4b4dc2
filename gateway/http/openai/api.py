"""The handlers of OpenAI's paths, and of the few beside them that its clients' neighbours know from vLLM."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from gateway.access.identity import Permission
from gateway.generation import Event, Generation
from gateway.http.messages import Answer, Events, HttpRequest, json_answer
from gateway.http.openai import speaker
from gateway.http.openai.body import parsed
from gateway.http.openai.chat import ChatBody, generation_of_chat
from gateway.http.openai.chat_answer import ChatSpeaker
from gateway.http.openai.completion_answer import CompletionSpeaker
from gateway.http.openai.completions import CompletionBody, generation_of_completion
from gateway.http.openai.parameters import Parameters, renamed
from gateway.http.openai.responses_answer import ResponseSpeaker
from gateway.http.openai.responses_body import ResponsesBody, generation_of_response
from gateway.http.openai.tokens import DetokenizeBody, TokenizeBody, generation_of_tokenize
from gateway.inference import Caller, Callers, Inference
from gateway.models import ServedModel
from rpc.call_record import current_request_id

OWNER = "tokenmill"


class OpenAiApi:
    """Holds no request's state."""

    def __init__(self, inference: Inference, callers: Callers) -> None:
        self._inference = inference
        self._callers = callers
        self._began = int(time.time())

    async def chat(self, request: HttpRequest) -> Answer | Events:
        """Answer a chat."""
        body = parsed(ChatBody, request.body)
        generation = generation_of_chat(body)
        speaks = ChatSpeaker(body, generation, current_request_id())
        return await self._said(generation, body, speaks, request)

    async def complete(self, request: HttpRequest) -> Answer | Events:
        """Continue prompts."""
        body = parsed(CompletionBody, request.body)
        generation = generation_of_completion(body)
        echoes = await self._echoes(body, request) if body.echo else ()
        speaks = CompletionSpeaker(body, generation, current_request_id(), echoes)
        return await self._said(generation, body, speaks, request)

    async def respond(self, request: HttpRequest) -> Answer | Events:
        """Make a response."""
        body = parsed(ResponsesBody, request.body)
        events = self._events(generation_of_response(body), body, request)
        speaks = ResponseSpeaker(body, current_request_id())
        return speaks.stream(events) if body.stream else await speaks.answer(events)

    async def list_models(self, request: HttpRequest) -> Answer:
        """All models, adapters and aliases."""
        models = self._inference.catalogue.models(self._permission(request))
        listed = [self._model(name, model) for model in models for name in self._names(model)]
        return json_answer({"object": "list", "data": listed})

    async def get_model(self, request: HttpRequest) -> Answer:
        """One of them. Errors: ServiceError."""
        name = request.path_parameters["model"]
        return json_answer(self._model(name, self._inference.catalogue.find(name, self._permission(request))))

    async def tokenize(self, request: HttpRequest) -> Answer:
        """The tokens of a prompt or a chat, exactly as a request with it would have them."""
        body = parsed(TokenizeBody, request.body)
        model, prompts = await self._inference.tokens(generation_of_tokenize(body), self._caller(request))
        [ids] = prompts.rows
        return json_answer({"count": len(ids), "max_model_len": model.context_length, "tokens": list(ids)})

    async def detokenize(self, request: HttpRequest) -> Answer:
        """The text of token ids."""
        body = parsed(DetokenizeBody, request.body)
        model = self._inference.catalogue.find(body.model, self._permission(request))
        [text] = await self._texts(model, [body.ids()])
        return json_answer({"prompt": text})

    async def _said(
        self, generation: Generation, body: Parameters, speaks: speaker.Speaker, request: HttpRequest
    ) -> Answer | Events:
        events = self._events(generation, body, request)
        if body.stream:
            return speaker.stream(events, speaks, generation.n)
        return await speaker.answer(events, speaks, generation.n)

    async def _events(
        self, generation: Generation, body: Parameters, request: HttpRequest
    ) -> AsyncGenerator[Event, None]:
        """What happens to the outputs. Errors: ServiceError naming the caller's field."""
        with renamed(body.names):
            async with aclosing(self._inference.events(generation, self._caller(request))) as events:
                async for event in events:
                    yield event

    def _permission(self, request: HttpRequest) -> Permission:
        return self._callers.permission(request.headers)

    def _caller(self, request: HttpRequest) -> Caller:
        return self._callers.caller(request.headers, None)

    async def _echoes(self, body: CompletionBody, request: HttpRequest) -> Sequence[str]:
        prompts = body.prompts()
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]
        rows = [array("i", prompt) for prompt in prompts if not isinstance(prompt, str)]
        return texts or await self._texts(self._inference.catalogue.find(body.model, self._permission(request)), rows)

    async def _texts(self, model: ServedModel, rows: Sequence[array[int]]) -> list[str]:
        artefact = await self._inference.tokenizers.artefact(model, model.vocabulary_fingerprint)
        decode = artefact.tokenizer.decode_batch
        return await asyncio.to_thread(decode, [list(row) for row in rows], skip_special_tokens=False)

    def _names(self, model: ServedModel) -> list[str]:
        return [model.name, *self._inference.catalogue.aliases_of(model)]

    def _model(self, name: str, model: ServedModel) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self._began,
            "owned_by": OWNER,
            "root": model.name,
            "parent": model.base if model.is_adapter else None,
            "max_model_len": model.context_length,
        }
