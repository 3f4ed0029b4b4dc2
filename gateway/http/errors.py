"""Every error a caller can see, as OpenAI's clients expect it: a status code and a body that names what is wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from grpc import StatusCode

from rpc.errors import ServiceError

_STATUS = {
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.FAILED_PRECONDITION: 400,
    StatusCode.UNIMPLEMENTED: 400,  # of a field: the path itself exists
    StatusCode.UNAUTHENTICATED: 401,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.NOT_FOUND: 404,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.CANCELLED: 499,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DEADLINE_EXCEEDED: 504,
}
# OpenAI's word for a reason, where its clients look for one.
_CODES = {
    "CONTEXT_LENGTH_EXCEEDED": "context_length_exceeded",
    "UNKNOWN_MODEL": "model_not_found",
    "QUEUE_FULL": "rate_limit_exceeded",
    "TENANT_QUEUE_FULL": "rate_limit_exceeded",
    "CREDENTIAL_LIMIT": "rate_limit_exceeded",
    "INVALID_CREDENTIALS": "invalid_api_key",
}
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
BODY_TOO_LARGE, BODY_TOO_SLOW, METHOD_NOT_ALLOWED = "BODY_TOO_LARGE", "BODY_TOO_SLOW", "METHOD_NOT_ALLOWED"
# Of reasons that HTTP has a status of its own for.
_STATUS_OF_REASON = {BODY_TOO_LARGE: 413, BODY_TOO_SLOW: 408, METHOD_NOT_ALLOWED: 405}


def status_of(error: ServiceError) -> int:
    """The HTTP status of `error`."""
    return _STATUS_OF_REASON.get(error.reason) or _STATUS.get(error.code, 500)


def headers_of(error: ServiceError) -> dict[str, str]:
    """When to come back, in whole seconds, where that helps; and how to say who one is."""
    if error.code is StatusCode.UNAUTHENTICATED:
        return {"www-authenticate": "Bearer"}
    if error.retry_after_seconds is None:
        return {}
    return {"retry-after": str(max(1, math.ceil(error.retry_after_seconds)))}


def body_of(error: ServiceError) -> Mapping[str, Any]:
    """OpenAI's shape. `code` is its own word or, where it has none, our reason in lower case."""
    status = status_of(error)
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    code = _CODES.get(error.reason, error.reason.lower())
    return {"error": {"message": error.message, "type": kind, "param": error.field, "code": code}}


def body_too_large(limit_bytes: int) -> ServiceError:
    """A request is larger than any may be."""
    message = f"the body of a request may have {limit_bytes} bytes at most"
    return ServiceError(StatusCode.RESOURCE_EXHAUSTED, BODY_TOO_LARGE, message)


def body_too_slow(seconds: float) -> ServiceError:
    """A request has not arrived whole."""
    message = f"the body of a request has to arrive within {seconds:g} s"
    return ServiceError(StatusCode.INVALID_ARGUMENT, BODY_TOO_SLOW, message)


def no_such_path() -> ServiceError:
    """Nothing is served there."""
    return ServiceError(StatusCode.NOT_FOUND, "UNKNOWN_PATH", "there is nothing at this path: see /docs")


def method_not_allowed() -> ServiceError:
    """The path exists, but not for this method."""
    return ServiceError(StatusCode.UNIMPLEMENTED, METHOD_NOT_ALLOWED, "the path does not have this method: see /docs")
