"""What happens to outputs, as the contract's messages."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from gateway.generation import (
    Event,
    FinishReason,
    Generation,
    OutputDelta,
    OutputFailed,
    OutputFinished,
    Started,
    Timing,
    Usage,
)
from gateway.model_description import to_message
from gateway.text.token_logprob import TokenLogprob
from rpc.call_record import current_request_id
from rpc.status import to_duration, to_output_error
from tokenmill.v1 import gateway_pb2, generation_pb2


def event_fields(event: Event) -> dict[str, Any]:
    """The one field of a streamed response that carries `event`."""
    match event:
        case OutputDelta(index, text, token_ids, logprobs, prompt_logprobs):
            delta = gateway_pb2.Delta(
                index=index,
                text=text,
                token_ids=token_ids,
                logprobs=_logprobs(logprobs),
                prompt_logprobs=_logprobs(prompt_logprobs),
            )
            return {"delta": delta}
        case Started(model, sampling, max_new_tokens, prompt_tokens):
            started = gateway_pb2.Started(
                request_id=current_request_id(),
                model=model,
                sampling=to_message(dataclasses.replace(sampling, logit_bias=())),  # which is not repeated
                max_new_tokens=max_new_tokens,
                prompt_tokens=prompt_tokens,
            )
            return {"started": started}
        case OutputFinished(index):
            finished = gateway_pb2.Finished(
                index=index, finish=_finish(event), usage=usage_message(event.usage), timing=_timing(event.timing)
            )
            return {"finished": finished}
        case OutputFailed(index, error):
            return {"failed": gateway_pb2.Failed(index=index, error=to_output_error(error))}


class CollectedOutputs:
    """The outputs of a unary call, put together from their events."""

    def __init__(self, generation: Generation) -> None:
        self._n = generation.n
        self._texts: list[list[str]] = [[] for _ in range(generation.prompt_count * generation.n)]
        self.outputs = [gateway_pb2.Output(index=index) for index in range(len(self._texts))]

    def add(self, event: Event) -> None:
        """Put one event where it belongs."""
        match event:
            case OutputDelta(index, text, token_ids, logprobs, prompt_logprobs):
                self._texts[index].append(text)
                self.outputs[index].token_ids.extend(token_ids)
                self.outputs[index].logprobs.extend(_logprobs(logprobs))
                self.outputs[index].prompt_logprobs.extend(_logprobs(prompt_logprobs))
            case OutputFinished(index):
                output = self.outputs[index]
                output.text = "".join(self._texts[index])
                output.finish.CopyFrom(_finish(event))
                output.usage.CopyFrom(usage_message(event.usage))
                output.timing.CopyFrom(_timing(event.timing))
            case OutputFailed(index, error):
                self.outputs[index].text = "".join(self._texts[index])
                self.outputs[index].error.CopyFrom(to_output_error(error))
                self.outputs[index].usage.CopyFrom(usage_message(event.usage))

    def usage(self) -> generation_pb2.Usage:
        """Of the whole call: each prompt counted once."""
        first_samples = self.outputs[:: self._n]
        return generation_pb2.Usage(
            prompt_tokens=sum(output.usage.prompt_tokens for output in first_samples),
            cached_prompt_tokens=sum(output.usage.cached_prompt_tokens for output in first_samples),
            completion_tokens=sum(output.usage.completion_tokens for output in self.outputs),
        )


def usage_message(usage: Usage) -> generation_pb2.Usage:
    """Token counts as the contract has them."""
    return generation_pb2.Usage(
        prompt_tokens=usage.prompt_tokens,
        cached_prompt_tokens=usage.cached_prompt_tokens,
        completion_tokens=usage.completion_tokens,
    )


def _logprobs(logprobs: Iterable[TokenLogprob]) -> list[generation_pb2.TokenLogprob]:
    return [
        generation_pb2.TokenLogprob(
            token_id=one.token_id,
            text=one.text,
            logprob=one.logprob,
            rank=one.rank,
            alternatives=_logprobs(one.alternatives),
        )
        for one in logprobs
    ]


def _finish(event: OutputFinished) -> generation_pb2.Finish:
    reason = generation_pb2.FinishReason.Value(f"FINISH_REASON_{event.reason.name}")
    finish = generation_pb2.Finish(reason=reason, seed=event.seed)
    if event.reason is FinishReason.STOP_STRING and event.stop_string is not None:
        finish.stop_string = event.stop_string
    elif event.stop_token_id is not None:
        finish.stop_token_id = event.stop_token_id
    return finish


def _timing(timing: Timing) -> generation_pb2.Timing:
    return generation_pb2.Timing(
        queue=to_duration(timing.queue),
        prefill=to_duration(timing.prefill),
        time_to_first_token=to_duration(timing.time_to_first_token),
        decode=to_duration(timing.decode),
        total=to_duration(timing.total),
    )
