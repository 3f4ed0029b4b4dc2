"""`POST /v1/completions`: what is answered."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from gateway.generation import Event, Generation, OutputDelta, OutputFailed, OutputFinished, Started, TotalUsage
from gateway.http.openai.completions import CompletionBody
from gateway.http.openai.terms import TokenTexts, ending, failure, token_text, usage_of
from gateway.text.token_logprob import TokenLogprob


class _Choice:
    """One output: what it says in parts, the echo of its prompt first."""

    def __init__(self, echo: str, *, with_logprobs: bool, with_token_ids: bool) -> None:
        self._echo = echo
        self._with_logprobs = with_logprobs
        self._with_token_ids = with_token_ids
        self._is_echoed = not echo
        self._prompt_logprobs: list[TokenLogprob] = []
        self._token_texts = TokenTexts()

    def delta(self, heard: OutputDelta) -> list[dict[str, Any]]:
        """The parts that an event of it is. The prompt's own log-probabilities all come before its tokens."""
        self._prompt_logprobs += heard.prompt_logprobs
        if not (heard.text or heard.token_ids or heard.logprobs):
            return []
        part: dict[str, Any] = {"text": heard.text}
        parts = self.echo()
        if self._with_token_ids:
            part["token_ids"] = list(heard.token_ids)
        if self._with_logprobs:
            part["logprobs"] = self._token_texts.of(heard.logprobs)
        return [*parts, part]

    def echo(self) -> list[dict[str, Any]]:
        """The prompt, if it is to be told and has not been."""
        if self._is_echoed:
            return []
        self._is_echoed = True
        part: dict[str, Any] = {"text": self._echo}
        if self._with_logprobs:
            rest = "".join(map(token_text, self._prompt_logprobs))
            first = self._token_texts.unknown(self._echo.removesuffix(rest) if rest else self._echo)
            part["logprobs"] = _joined([first, self._token_texts.of(self._prompt_logprobs)])
        return [part]


class CompletionSpeaker:
    """Owned by the request. Implements Speaker."""

    def __init__(self, body: CompletionBody, generation: Generation, request_id: str, echoes: Sequence[str]) -> None:
        """`echoes`: the text of each prompt, if it is to be told."""
        count = generation.prompt_count * generation.n
        self._wants_usage = body.wants_usage
        self._choices = [
            _Choice(
                echoes[index // generation.n] if echoes else "",
                with_logprobs=generation.logprobs is not None,
                with_token_ids=generation.token_ids,
            )
            for index in range(count)
        ]
        self._parts: list[list[dict[str, Any]]] = [[] for _ in range(count)]
        self._endings: list[dict[str, Any]] = [{} for _ in range(count)]
        self._model = ""
        self._id = f"cmpl-{request_id}"
        self._created = int(time.time())

    def chunks(self, heard: Event) -> Iterable[Any]:
        """A chunk for each part and each ending."""
        if isinstance(heard, Started):
            self._model = heard.model
            return
        for part in self._parts_of(heard):
            chunk = {**self._head(), "choices": [self._choice(heard.index, part)]}
            yield {**chunk, "usage": None} if self._wants_usage else chunk

    def last_chunks(self, total: TotalUsage) -> Iterable[Any]:
        """The tokens counted, if asked for."""
        if self._wants_usage:
            yield {**self._head(), "choices": [], "usage": usage_of(total)}

    def collect(self, heard: Event) -> None:
        """Note it."""
        if isinstance(heard, Started):
            self._model = heard.model
        else:
            self._parts[heard.index] += self._parts_of(heard)

    def whole(self, total: TotalUsage) -> Any:
        """All choices."""
        choices = [self._choice(index, _merged(parts)) for index, parts in enumerate(self._parts)]
        return {**self._head(), "choices": choices, "usage": usage_of(total)}

    def _parts_of(self, heard: OutputDelta | OutputFinished | OutputFailed) -> list[dict[str, Any]]:
        choice = self._choices[heard.index]
        match heard:
            case OutputDelta():
                return choice.delta(heard)
            case OutputFinished():
                return [*choice.echo(), {"text": "", **ending(heard)}]
            case OutputFailed(error=error):
                return [*choice.echo(), {"text": "", **failure(error)}]

    def _head(self) -> dict[str, Any]:
        return {"id": self._id, "object": "text_completion", "created": self._created, "model": self._model}

    def _choice(self, index: int, part: dict[str, Any]) -> dict[str, Any]:
        return {"index": index, "logprobs": None, "finish_reason": None, **part}


def _merged(parts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """All parts of one output as one: texts and lists follow each other, all else is said once."""
    texts: list[str] = []
    token_ids: list[int] = []
    logprobs: list[dict[str, Any]] = []
    merged: dict[str, Any] = {}
    for part in parts:
        merged.update(part)
        texts.append(part["text"])
        token_ids += part.get("token_ids", ())
        if part.get("logprobs"):
            logprobs.append(part["logprobs"])
    merged["text"] = "".join(texts)
    if "token_ids" in merged:
        merged["token_ids"] = token_ids
    if logprobs:
        merged["logprobs"] = _joined(logprobs)
    return merged


def _joined(columns: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {name: [entry for one in columns for entry in one[name]] for name in columns[0]}
