"""From what a worker says about its model to what the gateway serves, and to the public description of it."""

from __future__ import annotations

import dataclasses

from gateway.generation import Sampling
from gateway.models import ServedModel
from rpc.generation_params import effective_sampling
from tokenmill.v1 import gateway_pb2, generation_pb2, worker_pb2


def describe(worker: worker_pb2.GetWorkerResponse, default_max_new_tokens: int) -> tuple[ServedModel, ...]:
    """The model of a worker, then its adapters, each a model by its own name."""

    def effective(sampling: Sampling) -> Sampling:
        return from_message(effective_sampling(to_message(sampling), worker.defaults))

    model = ServedModel(
        name=worker.model,
        base=worker.model,
        context_length=worker.context_length,
        vocabulary_size=worker.vocabulary_size,
        vocabulary_fingerprint=worker.vocabulary_fingerprint,
        eos_token_ids=tuple(worker.eos_token_ids),
        quantization=worker.quantization,
        effective_sampling=effective,
        default_max_new_tokens=default_max_new_tokens,
    )
    return (model, *(dataclasses.replace(model, name=adapter) for adapter in worker.adapters))


def public_model(model: ServedModel, template_fingerprint: str, ready_workers: int) -> gateway_pb2.Model:
    """What callers are told."""
    return gateway_pb2.Model(
        name=model.name,
        context_length=model.context_length,
        vocabulary_size=model.vocabulary_size,
        default_sampling=to_message(model.effective_sampling(Sampling())),
        default_max_new_tokens=model.max_new_tokens(None, prompt_tokens=0),
        eos_token_ids=model.eos_token_ids,
        chat=bool(template_fingerprint),
        quantization=model.quantization,
        vocabulary_fingerprint=model.vocabulary_fingerprint,
        template_fingerprint=template_fingerprint,
        ready_workers=ready_workers,
        base_model=model.base if model.is_adapter else "",
    )


def to_message(sampling: Sampling) -> generation_pb2.SamplingParams:
    """Sampling as the contract has it; what is None is not set."""
    return generation_pb2.SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        typical_p=sampling.typical_p,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        seed=sampling.seed,
        logit_bias=dict(sampling.logit_bias),
    )


def from_message(message: generation_pb2.SamplingParams) -> Sampling:
    """The contract's sampling as a plain value; what is not set is None."""
    given = {field.name: value for field, value in message.ListFields() if field.name != "logit_bias"}
    return Sampling(**given, logit_bias=tuple(message.logit_bias.items()))
