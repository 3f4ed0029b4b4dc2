"""`POST /v1/completions`: the request, as one of the contract's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from gateway.generation import Generation
from gateway.http.openai.body import Int32, Several, TokenIds
from gateway.http.openai.parameters import Parameters, renamed
from gateway.requests import generation_from_prompts
from rpc.errors import invalid_field
from tokenmill.v1 import gateway_pb2


class CompletionBody(Parameters):
    """A request to continue prompts: texts, or token ids."""

    prompt: str | Several[str] | TokenIds | Several[TokenIds] = Field(union_mode="left_to_right")
    echo: bool | None = None
    logprobs: Int32 | None = None

    refused: ClassVar[dict[str, tuple[Any, ...]]] = {**Parameters.refused, "suffix": ("",)}

    def prompts(self) -> Sequence[str] | Sequence[Sequence[int]]:
        """Each prompt."""
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        if prompt and isinstance(prompt[0], int):
            return [prompt]
        return prompt  # type: ignore[return-value]  # the union's list[str] or list[list[int]]

    def names(self) -> Mapping[str, str]:
        """As for all, but for the prompts and the number of alternatives."""
        return {
            "prompts.texts": "prompt",
            "token_prompts.prompts": "prompt",
            "output.top_logprobs": "logprobs",
            "output.prompt_logprobs": "logprobs",
            **super().names(),
        }


def generation_of_completion(body: CompletionBody, *, counting: bool = False) -> Generation:
    """A completion as a checked request. Errors: ServiceError naming the caller's field."""
    body.check_stream()
    _check_echo(body)
    prompts = body.prompts()
    if not prompts:
        raise invalid_field("prompt", "must not be empty")
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    with_logprobs = body.logprobs is not None
    request = gateway_pb2.GenerateRequest(
        model=body.model,
        n=body.n,
        sampling=body.sampling(),
        stopping=body.stopping(),
        output=body.output(
            logprobs=with_logprobs,
            top_logprobs=body.logprobs or 0,
            prompt_logprobs=with_logprobs and bool(body.echo),
        ),
        priority=body.priority or 0,
        cache_salt=body.cache_salt or "",
        parse_special_tokens=body.parse_special_tokens or False,
        add_special_tokens=body.add_special_tokens,
        truncate_prompt_tokens=body.truncate_prompt_tokens,
    )
    if texts:
        request.prompts.texts.extend(texts)
    else:
        request.token_prompts.prompts.extend(gateway_pb2.TokenIds(ids=ids) for ids in prompts)  # type: ignore[arg-type]
    with renamed(body.names):
        return generation_from_prompts(request, counting=counting)


def _check_echo(body: CompletionBody) -> None:
    if not body.echo:
        return
    if body.truncate_prompt_tokens is not None:
        raise invalid_field("echo", "does not go with truncate_prompt_tokens")
    if body.logprobs is not None and (body.n or 1) > 1:
        raise invalid_field("n", "must be 1 with echo and logprobs")
