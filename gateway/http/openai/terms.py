"""What happens to outputs, in OpenAI's terms: why they ended, tokens counted, log-probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gateway.generation import FinishReason, OutputFinished, TotalUsage
from gateway.http.errors import body_of
from gateway.text.token_logprob import TokenLogprob
from rpc.errors import ServiceError

FAILED = "error"  # one output among several has failed: our own word, as OpenAI has none
_FINISH_REASONS = {
    FinishReason.END_OF_SEQUENCE: "stop",
    FinishReason.STOP_STRING: "stop",
    FinishReason.STOP_TOKEN: "stop",
    FinishReason.MAX_NEW_TOKENS: "length",
    FinishReason.CONTEXT_LENGTH: "length",
    FinishReason.TIME_LIMIT: "length",
}


def ending(finished: OutputFinished) -> dict[str, Any]:
    """Why an output ended; `stop_reason`, as vLLM has it, is the stop string or the stop token that ended it."""
    stop: str | int | None = finished.stop_string
    if finished.reason is FinishReason.STOP_TOKEN:
        stop = finished.stop_token_id
    return {"finish_reason": _FINISH_REASONS[finished.reason], "stop_reason": stop}


def failure(error: ServiceError) -> dict[str, Any]:
    """How one output among several failed."""
    return {"finish_reason": FAILED, **body_of(error)}


def usage_of(total: TotalUsage) -> dict[str, Any]:
    """Tokens counted, for chats and completions."""
    return {
        "prompt_tokens": total.prompt_tokens,
        "completion_tokens": total.completion_tokens,
        "total_tokens": total.prompt_tokens + total.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": total.cached_prompt_tokens},
    }


def token_text(token: TokenLogprob) -> str:
    """A token as text; what is no text alone becomes U+FFFD."""
    return token.text.decode(errors="replace")


def chat_logprobs(tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
    """For chats."""
    content = [
        {**_entry(token), "top_logprobs": [_entry(alternative) for alternative in token.alternatives]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _entry(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token_text(token), "logprob": token.logprob, "bytes": list(token.text)}


class TokenTexts:
    """The log-probabilities of a completion, in whose terms a token also has its place in the text, in characters."""

    def __init__(self) -> None:
        self._offset = 0

    def unknown(self, text: str) -> dict[str, Any]:
        """For a first token, which nothing precedes."""
        return self._columns([text], [None], [None])

    def of(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        """For tokens that follow those before."""
        return self._columns(
            [token_text(token) for token in tokens],
            [token.logprob for token in tokens],
            [_likely(token) for token in tokens],
        )

    def _columns(
        self, texts: Sequence[str], logprobs: Sequence[float | None], likely: Sequence[Mapping[str, float] | None]
    ) -> dict[str, Any]:
        offsets = []
        for text in texts:
            offsets.append(self._offset)
            self._offset += len(text)
        return {
            "tokens": list(texts),
            "token_logprobs": list(logprobs),
            "top_logprobs": list(likely),
            "text_offset": offsets,
        }


def _likely(token: TokenLogprob) -> dict[str, float]:
    """The alternatives, and the token itself, by text. Of tokens with one text the most probable counts."""
    likely: dict[str, float] = {}
    for one in (*token.alternatives, token):
        likely.setdefault(token_text(one), one.logprob)
    return likely
