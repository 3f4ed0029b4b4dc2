"""InferenceService: requests in, events out. What happens in between is the pipeline's."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from gateway.catalogue import Catalogue
from gateway.deadline import Deadline, DeadlineLimits
from gateway.generation import Event, Generation, OutputFailed, OutputFinished
from gateway.model_description import public_model
from gateway.models import ServedModel
from gateway.pipeline import Pipeline
from gateway.requests import generation_from_chat, generation_from_prompts
from gateway.responses import CollectedOutputs, event_fields
from gateway.row_plan import check_vocabulary
from gateway.tenants import tenant_of
from gateway.tokenizer_client import TokenizerClient
from rpc.call_record import count_tokens
from rpc.errors import ServiceError, invalid_field
from tokenmill.v1 import gateway_pb2, gateway_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Callers:
    """What a call says beside its request: until when its caller waits, and who that is."""

    deadlines: DeadlineLimits
    tenant_key: str

    def deadline(self, context: Context) -> Deadline:
        """Within the limits."""
        return self.deadlines.deadline(context.time_remaining())

    def tenant(self, context: Context) -> str:
        """Empty: nobody is named. Errors: ServiceError."""
        return tenant_of(context.invocation_metadata() or (), self.tenant_key)


class InferenceServicer(gateway_pb2_grpc.InferenceServiceServicer):
    """Answers the public API; holds no state of its own."""

    def __init__(self, pipeline: Pipeline, catalogue: Catalogue, tokenizers: TokenizerClient, callers: Callers) -> None:
        self._pipeline = pipeline
        self._callers = callers
        self._catalogue = catalogue
        self._tokenizers = tokenizers

    async def Generate(self, request: gateway_pb2.GenerateRequest, context: Context) -> gateway_pb2.GenerateResponse:
        """Continue prompts."""
        collected = await self._collect(generation_from_prompts(request), context)
        return gateway_pb2.GenerateResponse(outputs=collected.outputs, usage=collected.usage())

    async def Chat(self, request: gateway_pb2.ChatRequest, context: Context) -> gateway_pb2.ChatResponse:
        """Answer a chat."""
        collected = await self._collect(generation_from_chat(request), context)
        return gateway_pb2.ChatResponse(outputs=collected.outputs, usage=collected.usage())

    async def StreamGenerate(
        self, request: gateway_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[gateway_pb2.StreamGenerateResponse]:
        """Continue prompts, streaming."""
        async with aclosing(self._events(generation_from_prompts(request), context)) as events:
            async for event in events:
                yield gateway_pb2.StreamGenerateResponse(**event_fields(event))

    async def StreamChat(
        self, request: gateway_pb2.ChatRequest, context: Context
    ) -> AsyncIterator[gateway_pb2.StreamChatResponse]:
        """Answer a chat, streaming."""
        async with aclosing(self._events(generation_from_chat(request), context)) as events:
            async for event in events:
                yield gateway_pb2.StreamChatResponse(**event_fields(event))

    async def CountTokens(
        self, request: gateway_pb2.CountTokensRequest, context: Context
    ) -> gateway_pb2.CountTokensResponse:
        """Count the tokens of a request's prompts."""
        kind = request.WhichOneof("request")
        if kind is None:
            raise invalid_field("request", "one of generate and chat is required")
        try:
            if kind == "chat":
                generation = generation_from_chat(request.chat, counting=True)
            else:
                generation = generation_from_prompts(request.generate, counting=True)
            model = self._catalogue.find(generation.model)
            prompts = await self._tokenizers.encode(model, generation, self._callers.deadline(context))
            check_vocabulary(generation, prompts, model)
        except ServiceError as error:
            raise error.with_prefix(f"{kind}.") from None
        counts = [len(row) for row in prompts.rows]
        return gateway_pb2.CountTokensResponse(
            prompt_tokens=counts, total_tokens=sum(counts), context_length=model.context_length
        )

    async def ListModels(
        self, request: gateway_pb2.ListModelsRequest, context: Context
    ) -> gateway_pb2.ListModelsResponse:
        """All models."""
        models = await asyncio.gather(*map(self._public, self._catalogue.models()))
        return gateway_pb2.ListModelsResponse(models=models)

    async def GetModel(self, request: gateway_pb2.GetModelRequest, context: Context) -> gateway_pb2.GetModelResponse:
        """One model."""
        return gateway_pb2.GetModelResponse(model=await self._public(self._catalogue.find(request.model)))

    async def _public(self, model: ServedModel) -> gateway_pb2.Model:
        template_fingerprint = await self._tokenizers.template_fingerprint(model)
        public = public_model(model, template_fingerprint, self._catalogue.ready_workers(model))
        public.aliases.extend(self._catalogue.aliases_of(model))
        return public

    async def _collect(self, generation: Generation, context: Context) -> CollectedOutputs:
        collected = CollectedOutputs(generation)
        async with aclosing(self._events(generation, context)) as events:
            async for event in events:
                collected.add(event)
        return collected

    async def _events(self, generation: Generation, context: Context) -> AsyncGenerator[Event, None]:
        """The pipeline's events; the failure of a single output is the call's."""
        deadline = self._callers.deadline(context)
        generation = dataclasses.replace(generation, tenant=self._callers.tenant(context))
        model = self._catalogue.find(generation.model)
        is_single = generation.prompt_count * generation.n == 1
        prompt_tokens = completion_tokens = 0
        async with aclosing(self._pipeline.run(generation, model, deadline)) as events:
            async for event in events:
                if not (is_single and isinstance(event, OutputFailed)):
                    yield event
                if isinstance(event, OutputFinished | OutputFailed):
                    prompt_tokens += 0 if event.index % generation.n else event.usage.prompt_tokens
                    completion_tokens += event.usage.completion_tokens
                    count_tokens(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
                if is_single and isinstance(event, OutputFailed):
                    raise event.error
