"""What callers can ask for, whatever protocol they speak: a generation's events, and what its prompts are as tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing

from gateway.access.access import Access
from gateway.access.identity import ALL_MODELS, Identity, Permission
from gateway.access.quotas import Quotas
from gateway.catalogue import Catalogue
from gateway.deadline import Deadline, DeadlineLimits
from gateway.generation import EncodedPrompts, Event, Generation, OutputFailed, OutputFinished, TotalUsage
from gateway.metrics import GatewayMetrics
from gateway.models import ServedModel
from gateway.pipeline import Pipeline
from gateway.request_trace import RequestTrace
from gateway.row_plan import check_vocabulary
from gateway.tokenizer_client import TokenizerClient
from rpc.call_record import count_tokens, current_span
from rpc.errors import all_models_needed


@dataclasses.dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and until when they wait."""

    deadline: Deadline
    identity: Identity


@dataclasses.dataclass(frozen=True, slots=True)
class Callers:
    """What a call says beside its request, within the limits."""

    deadlines: DeadlineLimits
    access: Access

    def caller(self, metadata: Iterable[tuple[str, str | bytes]], seconds: float | None) -> Caller:
        """From the call's metadata, or headers, and the seconds that it may take; None: it does not say.

        Errors: ServiceError.
        """
        return Caller(self.deadlines.deadline(seconds), self.access.identity(metadata))

    def permission(self, metadata: Iterable[tuple[str, str | bytes]]) -> Permission:
        """The models that whoever calls may see. Errors: ServiceError."""
        return self.access.identity(metadata).permission

    def check_sees_all(self, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """Errors: ServiceError for a caller that may use some models only."""
        if self.permission(metadata) != ALL_MODELS:
            raise all_models_needed()


@dataclasses.dataclass(frozen=True, slots=True)
class Inference:
    """The one way from a checked request to what happens to it. Holds no request's state."""

    pipeline: Pipeline
    catalogue: Catalogue
    tokenizers: TokenizerClient
    metrics: GatewayMetrics
    quotas: Quotas

    async def events(self, generation: Generation, caller: Caller) -> AsyncGenerator[Event, None]:
        """The pipeline's events; the failure of a single output is the call's. Errors: ServiceError."""
        generation = dataclasses.replace(generation, tenant=caller.identity.tenant)
        is_single = generation.prompt_count * generation.n == 1
        total = TotalUsage(generation.n)
        with (
            self.metrics.request(generation, total, caller.deadline) as request,
            self.quotas.request(caller.identity),
        ):
            trace = RequestTrace(current_span(), generation, total)
            model = self.catalogue.find(generation.model, caller.identity.permission)
            request.model = model.name
            trace.serve(model)
            async with aclosing(self.pipeline.run(generation, model, caller.deadline)) as events:
                async for event in events:
                    if isinstance(event, OutputFinished | OutputFailed):
                        total.add(event.index, event.usage)
                        count_tokens(prompt_tokens=total.prompt_tokens, completion_tokens=total.completion_tokens)
                    request.hear(event)
                    trace.hear(event)
                    if is_single and isinstance(event, OutputFailed):
                        raise event.error
                    yield event

    async def tokens(self, generation: Generation, caller: Caller) -> tuple[ServedModel, EncodedPrompts]:
        """The prompts of a request exactly as the request itself would have them, and whose. Errors: ServiceError."""
        model = self.catalogue.find(generation.model, caller.identity.permission)
        with self.quotas.request(caller.identity):
            prompts = await self.tokenizers.encode(model, generation, caller.deadline)
        check_vocabulary(generation, prompts, model)
        return model, prompts
