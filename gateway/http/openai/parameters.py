"""What all requests have in common: OpenAI's parameters, vLLM's beside them, and what they are in the contract.

The contract's own checks do the rest; what they say of its fields is said of the caller's (`renamed`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

from gateway.http.openai.body import Body, Int32, Seed, Several, Table, TokenIds
from rpc.errors import ServiceError, invalid_field
from tokenmill.v1 import generation_pb2


class StreamOptions(Body):
    """How a stream is told."""

    include_usage: bool | None = None


class Parameters(Body):
    """A generation's parameters. Not given and null are the same."""

    model: str = ""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Int32 | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: Seed | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Table[float] | None = None
    stop: str | Several[str] | None = None
    user: str | None = None  # for whom it is, which changes nothing
    max_tokens: Int32 | None = None
    # vLLM's.
    top_k: Int32 | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: Int32 | None = None
    stop_token_ids: TokenIds | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    truncate_prompt_tokens: Int32 | None = None
    add_special_tokens: bool | None = None
    return_token_ids: bool | None = None
    priority: Int32 | None = None
    cache_salt: str | None = None
    # Ours: let control tokens that are written in the text act as such.
    parse_special_tokens: bool | None = None

    refused: ClassVar[dict[str, tuple[Any, ...]]] = {
        "response_format": ({"type": "text"},),
        "structured_outputs": (),
        "guided_json": (),
        "guided_regex": (),
        "guided_choice": (),
        "guided_grammar": (),
        "best_of": (1,),
        "use_beam_search": (),
        "length_penalty": (1, 1.0),
        "prompt_logprobs": (),
        "logits_processors": (),
    }

    @property
    def longest(self) -> int | None:
        """The bound of an output."""
        return self.max_tokens

    def sampling(self) -> generation_pb2.SamplingParams:
        """How tokens are chosen."""
        return generation_pb2.SamplingParams(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=0 if self.top_k == -1 else self.top_k,  # vLLM's word for off
            min_p=self.min_p,
            typical_p=self.typical_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            seed=None if self.seed is None else self.seed % 2**64,
            logit_bias=_biases(self.logit_bias or {}),
        )

    def stopping(self) -> generation_pb2.StoppingCriteria:
        """When an output ends."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop
        return generation_pb2.StoppingCriteria(
            max_new_tokens=self.longest,
            min_new_tokens=self.min_tokens or 0,
            stop_strings=stop or (),
            stop_token_ids=self.stop_token_ids or (),
            include_stop=self.include_stop_str_in_output or False,
            ignore_eos=self.ignore_eos or False,
        )

    def output(
        self, *, logprobs: bool, top_logprobs: int, prompt_logprobs: bool = False
    ) -> generation_pb2.OutputOptions:
        """What is told of it."""
        return generation_pb2.OutputOptions(
            logprobs=logprobs,
            top_logprobs=top_logprobs,
            prompt_logprobs=prompt_logprobs,
            token_ids=self.return_token_ids or False,
            keep_special_tokens=self.skip_special_tokens is False,
        )

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the tokens counted."""
        return self.stream_options is not None and self.stream_options.include_usage is True

    def check_stream(self) -> None:
        """Errors: ServiceError."""
        if self.stream_options is not None and not self.stream:
            raise invalid_field("stream_options", "goes with stream")

    def names(self) -> Mapping[str, str]:
        """The caller's name for each of the contract's fields that has another one."""
        return {
            "stopping.max_new_tokens": "max_tokens",
            "stopping.min_new_tokens": "min_tokens",
            "stopping.stop_strings": "stop",
            "stopping.": "",
            "sampling.": "",
            "output.": "",
        }


@contextmanager
def renamed(names: Callable[[], Mapping[str, str]]) -> Iterator[None]:
    """Let errors about the contract's fields name the caller's. The first of the `names` that fits holds."""
    try:
        yield
    except ServiceError as error:
        field = error.field or ""
        for own, theirs in names().items():
            if field.startswith(own):
                raise error.about(theirs + field.removeprefix(own)) from None
        raise


def _biases(given: Mapping[str, float]) -> dict[int, float]:
    """Errors: ServiceError."""
    biases = {}
    for key, bias in given.items():
        if not (key.isascii() and key.isdigit() and len(key) <= 9):
            raise invalid_field("logit_bias", "its keys are token ids")
        biases[int(key)] = bias
    return biases
