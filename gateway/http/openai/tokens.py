"""`POST /tokenize` and `POST /detokenize`, as vLLM has them."""

from __future__ import annotations

from array import array

from gateway.generation import Generation
from gateway.http.openai.body import Body, Several, TokenIds
from gateway.http.openai.chat import ChatBody, Message, generation_of_chat
from gateway.http.openai.completions import CompletionBody, generation_of_completion
from rpc.errors import invalid_field


class TokenizeBody(Body):
    """A text, or a chat."""

    model: str = ""
    prompt: str | None = None
    messages: Several[Message] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    parse_special_tokens: bool | None = None


class DetokenizeBody(Body):
    """Token ids."""

    model: str = ""
    tokens: TokenIds

    def ids(self) -> array[int]:
        """All of them. Errors: ServiceError."""
        if max(self.tokens, default=0) >= 2**31:
            raise invalid_field("tokens", f"{max(self.tokens)} is outside the vocabulary")
        return array("i", self.tokens)


def generation_of_tokenize(body: TokenizeBody) -> Generation:
    """What is to be tokenized, as a request whose prompt alone is looked at. Errors: ServiceError."""
    if (body.prompt is None) == (body.messages is None):
        raise invalid_field("prompt", "exactly one of prompt and messages is required")
    if body.messages is not None:
        chat = ChatBody(
            model=body.model,
            messages=body.messages,
            add_special_tokens=body.add_special_tokens,
            add_generation_prompt=body.add_generation_prompt,
            continue_final_message=body.continue_final_message,
            parse_special_tokens=body.parse_special_tokens,
        )
        return generation_of_chat(chat, counting=True)
    assert body.prompt is not None
    completion = CompletionBody(
        model=body.model,
        prompt=body.prompt,
        add_special_tokens=body.add_special_tokens,
        parse_special_tokens=body.parse_special_tokens,
    )
    return generation_of_completion(completion, counting=True)
