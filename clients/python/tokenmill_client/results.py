"""What comes back, as plain values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tokenmill.v1 import gateway_pb2, generation_pb2
from tokenmill_client.errors import TokenmillError, from_output_error


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens counted."""

    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token and how probable it was. `text`: what it adds, as bytes, which need not be UTF-8 alone."""

    token_id: int
    text: bytes
    logprob: float
    rank: int
    alternatives: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Finish:
    """How an output ended normally."""

    reason: str  # END_OF_SEQUENCE, STOP_STRING, STOP_TOKEN, MAX_NEW_TOKENS, CONTEXT_LENGTH or TIME_LIMIT
    seed: int  # with which it can be had again
    stop_string: str | None = None
    stop_token_id: int | None = None


@dataclass(slots=True)
class Output:
    """One output, whole. With an `error` its text is what came before."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: Finish | None = None
    error: TokenmillError | None = None
    usage: Usage = Usage()


@dataclass(frozen=True, slots=True)
class Answer:
    """All outputs of a call."""

    outputs: Sequence[Output]
    usage: Usage

    @property
    def text(self) -> str:
        """Of the first output."""
        return self.outputs[0].text


@dataclass(frozen=True, slots=True)
class Delta:
    """More of one output of a stream; with the last one, how it ended."""

    index: int
    text: str = ""
    token_ids: Sequence[int] = ()
    logprobs: Sequence[TokenLogprob] = ()
    prompt_logprobs: Sequence[TokenLogprob] = ()
    finish: Finish | None = None
    error: TokenmillError | None = None
    usage: Usage | None = None  # with finish


@dataclass(frozen=True, slots=True)
class Model:
    """A model that is served."""

    name: str
    context_length: int
    default_max_new_tokens: int
    chat: bool
    quantization: str
    ready_workers: int
    aliases: Sequence[str]
    base_model: str | None


def answer_of(response: gateway_pb2.GenerateResponse | gateway_pb2.ChatResponse) -> Answer:
    """A whole answer."""
    return Answer([_output(output) for output in response.outputs], _usage(response.usage))


def delta_of(response: gateway_pb2.StreamGenerateResponse | gateway_pb2.StreamChatResponse) -> Delta | None:
    """What a stream says; None: nothing about an output."""
    match response.WhichOneof("event"):
        case "delta":
            delta = response.delta
            return Delta(
                delta.index,
                delta.text,
                tuple(delta.token_ids),
                _logprobs(delta.logprobs),
                _logprobs(delta.prompt_logprobs),
            )
        case "finished":
            finished = response.finished
            return Delta(finished.index, finish=_finish(finished.finish), usage=_usage(finished.usage))
        case "failed":
            return Delta(response.failed.index, error=from_output_error(response.failed.error))
    return None


def model_of(model: gateway_pb2.Model) -> Model:
    """A model as the gateway describes it."""
    return Model(
        name=model.name,
        context_length=model.context_length,
        default_max_new_tokens=model.default_max_new_tokens,
        chat=model.chat,
        quantization=model.quantization,
        ready_workers=model.ready_workers,
        aliases=tuple(model.aliases),
        base_model=model.base_model or None,
    )


def _output(output: gateway_pb2.Output) -> Output:
    return Output(
        index=output.index,
        text=output.text,
        token_ids=list(output.token_ids),
        logprobs=list(_logprobs(output.logprobs)),
        prompt_logprobs=list(_logprobs(output.prompt_logprobs)),
        finish=_finish(output.finish) if output.HasField("finish") else None,
        error=from_output_error(output.error) if output.HasField("error") else None,
        usage=_usage(output.usage),
    )


def _finish(finish: generation_pb2.Finish) -> Finish:
    return Finish(
        reason=generation_pb2.FinishReason.Name(finish.reason).removeprefix("FINISH_REASON_"),
        seed=finish.seed,
        stop_string=finish.stop_string if finish.HasField("stop_string") else None,
        stop_token_id=finish.stop_token_id if finish.HasField("stop_token_id") else None,
    )


def _usage(usage: generation_pb2.Usage) -> Usage:
    return Usage(usage.prompt_tokens, usage.cached_prompt_tokens, usage.completion_tokens)


def _logprobs(logprobs: Iterable[generation_pb2.TokenLogprob]) -> tuple[TokenLogprob, ...]:
    return tuple(
        TokenLogprob(one.token_id, one.text, one.logprob, one.rank, _logprobs(one.alternatives)) for one in logprobs
    )
