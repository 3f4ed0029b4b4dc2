"""Every error a caller can see: one class, and one constructor per kind. The interceptor turns it into a status.

A message is one sentence for people; it never carries a stack trace, a path, an address or a `repr`.
"""

from __future__ import annotations

from grpc import StatusCode

DOMAIN = "tokenmill"
# A message travels three times in the trailing metadata (once percent-encoded), of which clients accept 8 KiB.
MAX_MESSAGE_BYTES = 512


class ServiceError(Exception):
    """An error with a gRPC code, a stable reason for programs and a sentence for people.

    `field` is the path of the request field at fault (INVALID_ARGUMENT, UNIMPLEMENTED);
    `retry_after_seconds` is set where retrying helps. A long message is shortened.
    """

    def __init__(
        self,
        code: StatusCode,
        reason: str,
        message: str,
        *,
        field: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = _shortened(message)
        self.field = field
        self.retry_after_seconds = retry_after_seconds

    @property
    def is_unavailable(self) -> bool:
        """Whether it is the service that failed, and not what it was asked for."""
        return self.code is StatusCode.UNAVAILABLE

    def without_prefix(self, prefix: str) -> ServiceError:
        """The same error, for a caller in whose request the field does not stand below `prefix`."""
        if self.field is None or not self.field.startswith(prefix):
            return self
        return self.about(self.field.removeprefix(prefix))

    def with_prefix(self, prefix: str) -> ServiceError:
        """The same error, for a caller in whose request the field stands below `prefix`."""
        return self if self.field is None else self.about(prefix + self.field)

    def about(self, field: str) -> ServiceError:
        """The same error about `field`, also in the message if that begins with the field's name."""
        begins_with_name = self.message.startswith(f"{self.field}: ")
        message = field + self.message.removeprefix(f"{self.field}") if begins_with_name else self.message
        retry = self.retry_after_seconds
        return ServiceError(self.code, self.reason, message, field=field, retry_after_seconds=retry)


def invalid_field(field: str, message: str, reason: str = "INVALID_FIELD") -> ServiceError:
    """A request field is out of its range; `message` goes on from the field's name."""
    return ServiceError(StatusCode.INVALID_ARGUMENT, reason, f"{field}: {message}", field=field)


def malformed_message() -> ServiceError:
    """The request is not a valid protobuf message of its type, or one of its strings is not UTF-8."""
    text = "the request is not a valid message of this method's type (or a string in it is not UTF-8)"
    return ServiceError(StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE", text)


def malformed_json() -> ServiceError:
    """The request is no JSON."""
    text = "the body of the request is not valid JSON (or a string in it is not UTF-8)"
    return ServiceError(StatusCode.INVALID_ARGUMENT, "MALFORMED_JSON", text)


def response_too_large(size_bytes: int, limit_bytes: int) -> ServiceError:
    """The answer to a valid request does not fit into one message."""
    text = f"the response would have {size_bytes} bytes, a message has at most {limit_bytes}: ask for less at once"
    return ServiceError(StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE", text)


def unknown_method() -> ServiceError:
    """The service has no such method."""
    return ServiceError(StatusCode.UNIMPLEMENTED, "UNKNOWN_METHOD", "there is no method of this name here")


def not_implemented(field: str, what: str) -> ServiceError:
    """A field of the contract that this release does not act on; refused, never ignored."""
    text = f"{field}: {what} is not implemented in this release"
    return ServiceError(StatusCode.UNIMPLEMENTED, "NOT_IMPLEMENTED", text, field=field)


def client_not_accepted() -> ServiceError:
    """The client's certificate is valid, but no name in it is one of those that are let in here."""
    text = "the client's certificate is of nobody who may call this service"
    return ServiceError(StatusCode.PERMISSION_DENIED, "CLIENT_NOT_ACCEPTED", text)


def missing_credentials() -> ServiceError:
    """The caller has to say who it is, and does not."""
    text = "a credential is required: authorization: Bearer KEY"
    return ServiceError(StatusCode.UNAUTHENTICATED, "MISSING_CREDENTIALS", text)


def invalid_credentials() -> ServiceError:
    """The credential is none of ours; what is wrong with it is not said."""
    return ServiceError(StatusCode.UNAUTHENTICATED, "INVALID_CREDENTIALS", "the credential is not valid here")


def expired_credentials() -> ServiceError:
    """The credential was valid once."""
    return ServiceError(StatusCode.UNAUTHENTICATED, "EXPIRED_CREDENTIALS", "the credential has expired")


def model_not_allowed() -> ServiceError:
    """The credential is for other models; whether there is one of the name asked for is not said."""
    text = "model: the credential is not for this model"
    return ServiceError(StatusCode.PERMISSION_DENIED, "MODEL_NOT_ALLOWED", text, field="model")


def all_models_needed() -> ServiceError:
    """What is asked for tells of every model, and the credential is for some."""
    text = "this tells of every model: it needs a credential that is for all of them"
    return ServiceError(StatusCode.PERMISSION_DENIED, "MODEL_NOT_ALLOWED", text)


def credential_limit(what: str, retry_after_seconds: float) -> ServiceError:
    """The credential has a limit of its own, which is reached; nothing was started."""
    text = f"the credential is for {what}; nothing was started, retry after {retry_after_seconds:.2g} s"
    return ServiceError(
        StatusCode.RESOURCE_EXHAUSTED, "CREDENTIAL_LIMIT", text, retry_after_seconds=retry_after_seconds
    )


def unknown_model(name: str) -> ServiceError:
    """No model of this name is served here."""
    return ServiceError(
        StatusCode.NOT_FOUND, "UNKNOWN_MODEL", f"model {name[:128]!r} is not served here", field="model"
    )


def vocabulary_mismatch(field: str | None = "vocabulary_fingerprint") -> ServiceError:
    """The token ids were made by another vocabulary than the model's; `field`: None where requests do not name it."""
    text = "the token ids were made with another vocabulary than this model's"
    message = text if field is None else f"{field}: {text}"
    return ServiceError(StatusCode.FAILED_PRECONDITION, "VOCABULARY_MISMATCH", message, field=field)


def no_chat_template(model: str) -> ServiceError:
    """A chat was sent to a model without a chat template."""
    text = f"model {model!r} has no chat template: send prompts instead of messages"
    return ServiceError(StatusCode.FAILED_PRECONDITION, "NO_CHAT_TEMPLATE", text)


def queue_full(what: str, retry_after_seconds: float) -> ServiceError:
    """A bounded queue is full; nothing was started."""
    return _full("QUEUE_FULL", what, retry_after_seconds)


def tenant_queue_full(retry_after_seconds: float) -> ServiceError:
    """So much may wait for one tenant; nothing was started."""
    return _full("TENANT_QUEUE_FULL", "the tenant's part of the gateway's queue", retry_after_seconds)


def _full(reason: str, what: str, retry_after_seconds: float) -> ServiceError:
    text = f"{what} is full; nothing was started, retry after {retry_after_seconds:.2g} s"
    return ServiceError(StatusCode.RESOURCE_EXHAUSTED, reason, text, retry_after_seconds=retry_after_seconds)


def unavailable(reason: str, message: str, retry_after_seconds: float = 1.0) -> ServiceError:
    """The service cannot answer now; nothing was started, or what was started has been lost."""
    return ServiceError(StatusCode.UNAVAILABLE, reason, message, retry_after_seconds=retry_after_seconds)


def deadline_exceeded() -> ServiceError:
    """The caller's deadline has passed."""
    return ServiceError(StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", "the deadline of the call has passed")


def internal() -> ServiceError:
    """Something that must not happen has happened; the log has it under the request id."""
    return ServiceError(StatusCode.INTERNAL, "INTERNAL", "internal error; the service's log has it under x-request-id")


def _shortened(message: str) -> str:
    encoded = message.encode(errors="replace")
    if len(encoded) <= MAX_MESSAGE_BYTES:
        return encoded.decode()
    return encoded[: MAX_MESSAGE_BYTES - 3].decode(errors="ignore") + "…"
