"""The outputs of a request that is answered whole, put together from their events."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from gateway.generation import Event, OutputDelta, OutputFailed, OutputFinished, Started
from gateway.text.token_logprob import TokenLogprob


@dataclass(slots=True)
class CollectedOutput:
    """One output."""

    texts: list[str] = field(default_factory=list)
    token_ids: array[int] = field(default_factory=lambda: array("i"))
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    end: OutputFinished | OutputFailed | None = None

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.texts)


class Collected:
    """All outputs, in the order of their index."""

    def __init__(self, count: int) -> None:
        self.started: Started | None = None
        self.outputs = [CollectedOutput() for _ in range(count)]

    def add(self, event: Event) -> None:
        """Put one event where it belongs."""
        match event:
            case Started():
                self.started = event
            case OutputDelta(index, text, token_ids, logprobs, prompt_logprobs):
                output = self.outputs[index]
                output.texts.append(text)
                output.token_ids.extend(token_ids)
                output.logprobs.extend(logprobs)
                output.prompt_logprobs.extend(prompt_logprobs)
            case OutputFinished() | OutputFailed():
                self.outputs[event.index].end = event
