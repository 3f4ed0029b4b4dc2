"""InferenceService: requests in, events out. What happens in between is the pipeline's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from gateway.access.identity import Permission
from gateway.generation import Event, Generation
from gateway.inference import Caller, Callers, Inference
from gateway.model_description import public_model
from gateway.models import ServedModel
from gateway.requests import generation_from_chat, generation_from_prompts
from gateway.responses import CollectedOutputs, event_fields
from rpc.errors import ServiceError, invalid_field
from tokenmill.v1 import gateway_pb2, gateway_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class InferenceServicer(gateway_pb2_grpc.InferenceServiceServicer):
    """Answers the public API; holds no state of its own."""

    def __init__(self, inference: Inference, callers: Callers) -> None:
        self._inference = inference
        self._callers = callers

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
        caller = self._caller(context)
        try:
            if kind == "chat":
                generation = generation_from_chat(request.chat, counting=True)
            else:
                generation = generation_from_prompts(request.generate, counting=True)
            model, prompts = await self._inference.tokens(generation, caller)
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
        models = self._inference.catalogue.models(self._permission(context))
        return gateway_pb2.ListModelsResponse(models=await asyncio.gather(*map(self._public, models)))

    async def GetModel(self, request: gateway_pb2.GetModelRequest, context: Context) -> gateway_pb2.GetModelResponse:
        """One model."""
        model = self._inference.catalogue.find(request.model, self._permission(context))
        return gateway_pb2.GetModelResponse(model=await self._public(model))

    async def _public(self, model: ServedModel) -> gateway_pb2.Model:
        template_fingerprint = await self._inference.tokenizers.template_fingerprint(model)
        catalogue = self._inference.catalogue
        public = public_model(model, template_fingerprint, catalogue.ready_workers(model))
        public.aliases.extend(catalogue.aliases_of(model))
        return public

    async def _collect(self, generation: Generation, context: Context) -> CollectedOutputs:
        collected = CollectedOutputs(generation)
        async with aclosing(self._events(generation, context)) as events:
            async for event in events:
                collected.add(event)
        return collected

    def _events(self, generation: Generation, context: Context) -> AsyncGenerator[Event, None]:
        return self._inference.events(generation, self._caller(context))

    def _permission(self, context: Context) -> Permission:
        return self._callers.permission(context.invocation_metadata() or ())

    def _caller(self, context: Context) -> Caller:
        return self._callers.caller(context.invocation_metadata() or (), context.time_remaining())
