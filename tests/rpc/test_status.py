"""Errors on the wire and back, and what a failed call to one of our services means to a caller."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st

from rpc.errors import MAX_MESSAGE_BYTES, ServiceError, vocabulary_mismatch
from rpc.status import (
    DETAILS_KEY,
    details_metadata,
    from_output_error,
    from_rpc_error,
    to_duration,
    to_output_error,
    to_seconds,
    translated_errors,
)
from tokenmill.v1.generation_pb2 import OutputError

STATUS = grpc.StatusCode
PEER = "the model worker"
codes = st.sampled_from([code for code in STATUS if code is not STATUS.OK])
errors = st.builds(
    ServiceError,
    codes,
    st.sampled_from(["QUEUE_FULL", "UNKNOWN_MODEL"]),
    st.text(max_size=100),
    field=st.none() | st.text(min_size=1, max_size=30),
    retry_after_seconds=st.none() | st.floats(0, 3600).map(lambda seconds: round(seconds, 6)),
)


def rpc_error(code: grpc.StatusCode, *metadata: tuple[str, str | bytes], details: str = "") -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*metadata), details)


@given(errors)
def test_an_error_survives_the_wire(error):
    back = from_rpc_error(rpc_error(error.code, details_metadata(error)), PEER)
    assert (back.code, back.reason, back.message, back.field) == (error.code, error.reason, error.message, error.field)
    assert back.retry_after_seconds == pytest.approx(error.retry_after_seconds)


@given(errors)
def test_an_error_survives_as_that_of_one_output(error):
    back = from_output_error(OutputError.FromString(to_output_error(error).SerializeToString()))
    assert (back.code, back.reason, back.message) == (error.code, error.reason, error.message)
    assert back.retry_after_seconds == pytest.approx(error.retry_after_seconds)


@given(st.text(max_size=2000))
def test_a_message_is_bounded_and_a_short_one_stays_as_it_is(message):
    error = ServiceError(STATUS.INTERNAL, "INTERNAL", message)
    assert len(error.message.encode()) <= MAX_MESSAGE_BYTES
    if len(message.encode()) <= MAX_MESSAGE_BYTES:
        assert error.message == message


def test_half_a_character_is_replaced():
    assert ServiceError(STATUS.INTERNAL, "INTERNAL", "half \ud800").message == "half ?"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (STATUS.UNAVAILABLE, (STATUS.UNAVAILABLE, "PEER_UNAVAILABLE")),
        (STATUS.CANCELLED, (STATUS.UNAVAILABLE, "PEER_UNAVAILABLE")),
        (STATUS.INTERNAL, (STATUS.UNAVAILABLE, "PEER_UNAVAILABLE")),
        (STATUS.DEADLINE_EXCEEDED, (STATUS.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")),
        (STATUS.RESOURCE_EXHAUSTED, (STATUS.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE")),
        (STATUS.UNKNOWN, (STATUS.INTERNAL, "INTERNAL")),
        (STATUS.UNIMPLEMENTED, (STATUS.INTERNAL, "INTERNAL")),
    ],
)
def test_what_the_library_says_is_replaced_because_it_can_name_addresses(code, expected):
    error = from_rpc_error(rpc_error(code, details="failed to connect to ipv4:10.0.0.7:50053"), PEER)
    assert (error.code, error.reason) == expected
    assert "10.0.0.7" not in error.message


def test_an_unavailable_peer_is_worth_a_retry():
    assert from_rpc_error(rpc_error(STATUS.UNAVAILABLE), PEER).retry_after_seconds


@pytest.mark.parametrize("details", [b"\xff\xff", "text"])
def test_details_that_are_none_are_ignored(details):
    error = from_rpc_error(rpc_error(STATUS.UNAVAILABLE, (DETAILS_KEY, details)), PEER)
    assert error.reason == "PEER_UNAVAILABLE"


@pytest.mark.parametrize("number", [0, 99])
def test_a_number_that_is_no_error_code_is_unknown(number):
    details = status_pb2.Status(code=number, message="?").SerializeToString()
    assert from_rpc_error(rpc_error(STATUS.INTERNAL, (DETAILS_KEY, details)), PEER).code is STATUS.UNKNOWN
    assert from_output_error(OutputError(code=number)).code is STATUS.UNKNOWN


def test_calls_in_a_translated_body_fail_with_service_errors():
    with pytest.raises(ServiceError, match="the model worker cannot be reached"), translated_errors(PEER):
        raise rpc_error(STATUS.UNAVAILABLE)


@given(st.floats(0, 1e9))
def test_durations_keep_nanoseconds(seconds):
    assert to_seconds(to_duration(seconds)) == pytest.approx(seconds, abs=1e-9, rel=1e-12)


@pytest.mark.parametrize("field", ["vocabulary_fingerprint", None])
def test_a_vocabulary_mismatch_names_a_field_only_where_requests_have_it(field):
    error = vocabulary_mismatch(field)
    assert error.field == field
    assert error.message.startswith("vocabulary_fingerprint: ") == (field is not None)
