"""What can go wrong, as exceptions: one class for each way to react."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from tokenmill.v1 import generation_pb2

_DETAILS_KEY = "grpc-status-details-bin"


class TokenmillError(Exception):
    """A call, or one output of it, has failed.

    `reason` is stable and for programs (`QUEUE_FULL`), the message is for people, `field` is the path of the request
    field at fault, and `retry_after_seconds` is set where trying again helps: not sooner than that.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        field: str | None = None,
        retry_after_seconds: float | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.field = field
        self.retry_after_seconds = retry_after_seconds
        self.request_id = request_id


class InvalidRequestError(TokenmillError):
    """The request cannot be; sending it again changes nothing. `field` names what is wrong."""


class NotFoundError(TokenmillError):
    """There is no model of this name."""


class RefusedError(TokenmillError):
    """Who asks may not: no credentials, or not these."""


class OverloadedError(TokenmillError):
    """There is no room now; nothing was started."""


class UnavailableError(TokenmillError):
    """The service cannot be reached, or has lost what was begun."""


class DeadlineExceededError(TokenmillError):
    """The time that the call was given has passed."""


class CancelledError(TokenmillError):
    """The call was cancelled from this side."""


class InternalError(TokenmillError):
    """The service has made a mistake; its log has it under `request_id`."""


_KINDS: dict[grpc.StatusCode, type[TokenmillError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.FAILED_PRECONDITION: InvalidRequestError,
    grpc.StatusCode.UNIMPLEMENTED: InvalidRequestError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequestError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.UNAUTHENTICATED: RefusedError,
    grpc.StatusCode.PERMISSION_DENIED: RefusedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.CANCELLED: CancelledError,
}
_CODES = {code.value[0]: code for code in grpc.StatusCode}


def from_rpc_error(error: Any) -> TokenmillError:
    """The exception for a call that has failed: a `grpc.RpcError`, synchronous or not."""
    trailing = dict(error.trailing_metadata() or ())
    request_id = str(trailing.get("x-request-id", ""))
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    retry_after = None
    for detail in _details(trailing.get(_DETAILS_KEY)):
        detail.Unpack(info)
        detail.Unpack(bad)
        if detail.Unpack(retry):
            retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    return _KINDS.get(error.code(), InternalError)(
        error.details() or error.code().name,
        reason=info.reason,
        field=bad.field_violations[0].field if bad.field_violations else None,
        retry_after_seconds=retry_after,
        request_id=request_id,
    )


def from_output_error(error: generation_pb2.OutputError) -> TokenmillError:
    """The exception for one output among several that has failed."""
    retry_after = error.retry_delay.ToTimedelta().total_seconds() if error.HasField("retry_delay") else None
    kind = _KINDS.get(_CODES.get(error.code, grpc.StatusCode.UNKNOWN), InternalError)
    return kind(error.message, reason=error.reason, retry_after_seconds=retry_after)


def _details(raw: Any) -> list[Any]:
    if not isinstance(raw, bytes):
        return []
    try:
        return list(status_pb2.Status.FromString(raw).details)
    except DecodeError:
        return []
