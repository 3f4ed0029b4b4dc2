"""What a caller hears: the events of a stream, checked against the contract's rules as they come; and refusals."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2

from rpc.errors import DOMAIN
from rpc.status import DETAILS_KEY, to_seconds
from tests.failure import failure
from tokenmill.v1 import gateway_pb2, generation_pb2


@dataclass
class Heard:
    """The outputs of one stream so far. Started comes first and once; nothing follows an output's terminal."""

    started: gateway_pb2.Started | None = None
    texts: dict[int, str] = field(default_factory=lambda: defaultdict(str))
    token_ids: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    logprobs: dict[int, list[generation_pb2.TokenLogprob]] = field(default_factory=lambda: defaultdict(list))
    prompt_logprobs: dict[int, list[generation_pb2.TokenLogprob]] = field(default_factory=lambda: defaultdict(list))
    ends: dict[int, gateway_pb2.Finished | gateway_pb2.Failed] = field(default_factory=dict)
    delta_sizes: list[int] = field(default_factory=list)  # characters

    def take(self, response: Any) -> None:
        kind = response.WhichOneof("event")
        event = getattr(response, kind)
        if kind == "started":
            assert self.started is None, "started twice"
            self.started = event
            return
        assert self.started is not None, "something before started"
        assert event.index not in self.ends, "something after the output's terminal"
        if kind == "delta":
            assert event.text or event.token_ids or event.logprobs or event.prompt_logprobs, "an empty delta"
            self.texts[event.index] += event.text
            self.token_ids[event.index] += event.token_ids
            self.logprobs[event.index] += event.logprobs
            self.prompt_logprobs[event.index] += event.prompt_logprobs
            self.delta_sizes.append(len(event.text))
        else:
            self.ends[event.index] = event


async def hear(call: Any) -> Heard:
    """A stream to its end."""
    heard = Heard()
    async for response in call:
        heard.take(response)
    assert set(heard.texts) <= set(heard.ends), "an output without a terminal"
    return heard


@dataclass(frozen=True)
class Refusal:
    """How a call failed, as a program sees it."""

    code: grpc.StatusCode
    reason: str
    message: str
    field: str | None
    retry_after_seconds: float | None


async def refusal(call: Any) -> Refusal:
    """What `call`, unary or a stream, fails with; its details must be in the form of google.rpc."""
    return refusal_of(await failure(call))


def refusal_of(error: grpc.aio.AioRpcError) -> Refusal:
    status = status_pb2.Status.FromString(dict(error.trailing_metadata())[DETAILS_KEY])
    assert (status.code, status.message) == (error.code().value[0], error.details())
    info = _detail(status, error_details_pb2.ErrorInfo())
    assert info is not None
    assert info.domain == DOMAIN
    bad = _detail(status, error_details_pb2.BadRequest())
    retry = _detail(status, error_details_pb2.RetryInfo())
    return Refusal(
        error.code(),
        info.reason,
        error.details(),
        bad.field_violations[0].field if bad else None,
        to_seconds(retry.retry_delay) if retry else None,
    )


def _detail(status: Any, wanted: Any) -> Any:
    details: list[AnyMessage] = [detail for detail in status.details if detail.Is(wanted.DESCRIPTOR)]
    if not details:
        return None
    details[0].Unpack(wanted)
    return wanted
