"""ServiceError on the wire: `google.rpc.Status` in trailing metadata, both ways."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from rpc.errors import DOMAIN, ServiceError, deadline_exceeded, internal, unavailable
from tokenmill.v1 import generation_pb2

DETAILS_KEY = "grpc-status-details-bin"
ERROR_CODES = {code.value[0]: code for code in grpc.StatusCode if code is not grpc.StatusCode.OK}


def details_metadata(error: ServiceError) -> tuple[str, bytes]:
    """The trailing metadata entry that carries the details of `error`."""
    status = status_pb2.Status(code=error.code.value[0], message=error.message)
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)]
    if error.field is not None:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=error.message, reason=error.reason
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_after_seconds is not None:
        details.append(error_details_pb2.RetryInfo(retry_delay=to_duration(error.retry_after_seconds)))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return DETAILS_KEY, status.SerializeToString()


def from_rpc_error(error: grpc.aio.AioRpcError, peer: str) -> ServiceError:
    """What a failed call to one of our own services means to the caller.

    `peer` names the service in a sentence ("the model worker"). Its own errors pass unchanged; what the library says
    about a connection is replaced, because it can name addresses.
    """
    metadata: Any = error.trailing_metadata()  # pairs of key and value; the stubs know only an opaque class
    details = dict(metadata or ()).get(DETAILS_KEY)
    if isinstance(details, bytes):
        with contextlib.suppress(DecodeError):
            return _from_status(status_pb2.Status.FromString(details))
    code = error.code()
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return deadline_exceeded()
    # INTERNAL: it could not send, or the connection was reset. Our own services say more than the code.
    if code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL}:
        return unavailable("PEER_UNAVAILABLE", f"{peer} cannot be reached")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return ServiceError(code, "MESSAGE_TOO_LARGE", f"a message for {peer} is larger than the limit")
    return internal()


def _from_status(status: status_pb2.Status) -> ServiceError:
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    retry_after_seconds = None
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad)
        if detail.Unpack(retry):
            retry_after_seconds = to_seconds(retry.retry_delay)
    return ServiceError(
        _error_code(status.code),
        info.reason or "INTERNAL",
        status.message,
        field=bad.field_violations[0].field if bad.field_violations else None,
        retry_after_seconds=retry_after_seconds,
    )


def _error_code(number: int) -> grpc.StatusCode:
    # A number from the wire: OK is no error, and a newer peer may know more codes.
    return ERROR_CODES.get(number, grpc.StatusCode.UNKNOWN)


def to_output_error(error: ServiceError) -> generation_pb2.OutputError:
    """The same error for one output among several."""
    message = generation_pb2.OutputError(code=error.code.value[0], reason=error.reason, message=error.message)
    if error.retry_after_seconds is not None:
        message.retry_delay.CopyFrom(to_duration(error.retry_after_seconds))
    return message


def from_output_error(error: generation_pb2.OutputError, field: str = "") -> ServiceError:
    """The error of an output, as the error of a call; `field`: the path of the field at fault, if one is."""
    retry = to_seconds(error.retry_delay) if error.HasField("retry_delay") else None
    code = _error_code(error.code)
    return ServiceError(code, error.reason, error.message, field=field or None, retry_after_seconds=retry)


def to_duration(seconds: float) -> Duration:
    """A protobuf Duration of `seconds`."""
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def to_seconds(duration: Duration) -> float:
    """A protobuf Duration in seconds."""
    return duration.seconds + duration.nanos * 1e-9


@contextlib.contextmanager
def translated_errors(peer: str) -> Iterator[None]:
    """Raise what a call to `peer` in the body fails with as a ServiceError (see `from_rpc_error`)."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, peer) from None
