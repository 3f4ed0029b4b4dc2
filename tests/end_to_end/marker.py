"""A text that only callers and the model write: whatever else it is found in has let a text out."""

from __future__ import annotations

import io
import json
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rpc import log
from tests.end_to_end.heard import hear, refusal
from tests.end_to_end.requests import Stopping, chat, generate, message
from tokenmill.v1 import gateway_pb2, tokenizer_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

    import grpc

    from tests.end_to_end.stack import Stack

MARKER = "midnight dreary"


@contextmanager
def logs() -> Iterator[io.StringIO]:
    """Everything the three services log at the most talkative level, in both formats."""
    written = io.StringIO()
    handlers = [logging.StreamHandler(written), logging.StreamHandler(written)]
    handlers[0].setFormatter(log.JsonFormatter())
    handlers[1].setFormatter(log.ConsoleFormatter())
    ours, root = logging.getLogger("tokenmill"), logging.getLogger()
    before = ours.level
    ours.setLevel(logging.DEBUG)
    for handler in handlers:
        root.addHandler(handler)
    try:
        yield written
    finally:
        ours.setLevel(before)
        for handler in handlers:
            root.removeHandler(handler)


def check(written: io.StringIO, calls: int) -> None:
    """At least so many calls were logged, and none with a text."""
    text = written.getvalue()
    assert text.count('"message": "rpc"') >= calls
    assert MARKER not in text
    assert "midnight" not in text
    assert "Traceback" not in text


async def failed(call: Any) -> grpc.StatusCode:
    return (await refusal(call)).code


async def speak(stack: Stack) -> None:
    """Calls that succeed, with the marker wherever a caller may write a text."""
    called = gateway_pb2.ToolCall(id=MARKER, name=MARKER, arguments=json.dumps({MARKER: MARKER}))
    messages = [
        message(MARKER, "system", name=MARKER),
        message(MARKER, "assistant", tool_calls=[called]),
        message(MARKER),
    ]
    options = {"stopping": Stopping(max_new_tokens=20, stop_strings=[f"no {MARKER}"]), "cache_salt": MARKER}
    heard = await hear(stack.gateway.StreamChat(chat(*messages, template_kwargs={MARKER: MARKER}, **options)))
    assert MARKER in heard.texts[0]
    assert MARKER in (await stack.gateway.Generate(generate(MARKER, **options))).outputs[0].text
    assert MARKER in (await hear(stack.gateway.StreamGenerate(generate(MARKER, n=2, **options)))).texts[1]
    stopped = generate(MARKER, stopping=Stopping(max_new_tokens=20, stop_strings=[MARKER]))
    assert (await stack.gateway.Generate(stopped)).outputs[0].finish.stop_string == MARKER
    await stack.gateway.CountTokens(gateway_pb2.CountTokensRequest(chat=chat(*messages)))
    ids = stack.tier.tokenizer.encode(MARKER).ids
    sequences = [gateway_pb2.TokenIds(ids=ids)]
    assert (await stack.tier.stub.Decode(tokenizer_pb2.DecodeRequest(sequences=sequences))).texts == [MARKER]
