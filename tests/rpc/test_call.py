"""Every RPC of every service: what its caller hears, and what the log says, through real sockets."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from rpc import log
from rpc.call_record import count_tokens, current_request_id
from rpc.errors import MAX_MESSAGE_BYTES, ServiceError, invalid_field, queue_full, unavailable
from rpc.status import DETAILS_KEY, from_rpc_error
from tests.failure import failure
from tests.rpc.scripted_service import (
    GENERATE,
    STREAM_GENERATE,
    WORKER_GENERATE,
    ScriptedService,
    answer,
    calls_of,
    channel_to,
    connected,
)
from tokenmill.v1 import gateway_pb2, gateway_pb2_grpc, worker_pb2, worker_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MARKER = "Once upon a midnight dreary"
REQUEST = gateway_pb2.GenerateRequest(prompts=gateway_pb2.TextPrompts(texts=[MARKER]))
EVENT = gateway_pb2.StreamGenerateResponse(delta=gateway_pb2.Delta(text=MARKER))
STATUS = grpc.StatusCode


def details_of(error: grpc.aio.AioRpcError) -> list[Any]:
    status = status_pb2.Status.FromString(dict(error.trailing_metadata())[DETAILS_KEY])
    kinds = {
        kind.DESCRIPTOR.full_name: kind
        for kind in vars(error_details_pb2).values()
        if hasattr(kind, "DESCRIPTOR") and hasattr(kind, "FromString")
    }
    return [kinds[detail.TypeName()].FromString(detail.value) for detail in status.details]


async def break_down(request: Any, context: Any) -> Any:
    raise KeyError(MARKER)


async def break_down_at_once(request: Any, context: Any) -> AsyncIterator[Any]:
    raise KeyError(MARKER)
    yield


async def break_down_later(request: Any, context: Any) -> AsyncIterator[Any]:
    yield EVENT
    raise KeyError(MARKER)


class TestFailures:
    @pytest.mark.parametrize("method", [break_down_at_once, break_down_later])
    async def test_an_unhandled_exception_in_a_stream_is_internal_and_tells_nothing(self, method):
        async with channel_to(stream_generate=method) as channel:
            error = await failure(gateway_pb2_grpc.InferenceServiceStub(channel).StreamGenerate(REQUEST))
        assert error.code() is STATUS.INTERNAL
        assert MARKER not in str(error)
        assert "KeyError" not in str(error)

    async def test_an_unhandled_exception_is_internal_and_the_log_has_its_type_and_place_alone(self, caplog):
        async with channel_to(generate=break_down) as channel:
            error = await failure(gateway_pb2_grpc.InferenceServiceStub(channel).Generate(REQUEST))
        assert error.code() is STATUS.INTERNAL
        assert MARKER not in str(error)
        assert "KeyError" not in str(error)
        assert [detail.reason for detail in details_of(error)] == ["INTERNAL"]
        lines = [json.loads(log.JsonFormatter().format(record)) for record in caplog.records]
        (line,) = [line for line in lines if line["message"] == "unhandled exception"]
        assert line["exception"] == "KeyError"
        assert any("break_down" in frame for frame in line["frames"])
        assert line["request_id"] == dict(error.trailing_metadata())["x-request-id"]
        assert MARKER not in str(lines)

    async def test_a_response_of_the_wrong_type_is_internal(self, caplog):
        async def wrong(request, context):
            return "not a message"

        async def wrong_stream(request, context):
            yield MARKER

        async with channel_to(generate=wrong, stream_generate=wrong_stream) as channel:
            stub = gateway_pb2_grpc.InferenceServiceStub(channel)
            errors = [await failure(stub.Generate(REQUEST)), await failure(stub.StreamGenerate(REQUEST))]
        for error in errors:
            assert error.code() is STATUS.INTERNAL
            assert MARKER not in str(error)
            assert "TypeError" not in str(error)

    async def test_a_service_error_carries_its_code_and_the_details_for_programs(self):
        async def refuse(request, context):
            raise invalid_field("sampling.top_p", "must be above 0")

        async def full(request, context):
            raise queue_full("the queue", 1.5)
            yield

        async with channel_to(generate=refuse, stream_generate=full) as channel:
            stub = gateway_pb2_grpc.InferenceServiceStub(channel)
            refused, overloaded = await failure(stub.Generate(REQUEST)), await failure(stub.StreamGenerate(REQUEST))
        assert (refused.code(), refused.details()) == (STATUS.INVALID_ARGUMENT, "sampling.top_p: must be above 0")
        info, bad = details_of(refused)
        assert (info.domain, info.reason) == ("tokenmill", "INVALID_FIELD")
        assert [violation.field for violation in bad.field_violations] == ["sampling.top_p"]
        assert overloaded.code() is STATUS.RESOURCE_EXHAUSTED
        info, retry = details_of(overloaded)
        assert info.reason == "QUEUE_FULL"
        assert retry.retry_delay.ToMilliseconds() == 1500

    async def test_a_very_long_message_is_shortened_and_still_arrives(self):
        async def refuse(request, context):
            raise invalid_field("messages", "詳細" * 10_000)

        async with channel_to(generate=refuse) as channel:
            error = await failure(gateway_pb2_grpc.InferenceServiceStub(channel).Generate(REQUEST))
        assert error.code() is STATUS.INVALID_ARGUMENT
        assert len(error.details().encode()) <= MAX_MESSAGE_BYTES
        assert error.details().startswith("messages: 詳細")
        assert error.details().endswith("…")

    async def test_an_abort_by_the_library_passes_as_it_is(self, caplog):
        caplog.set_level(logging.INFO, "tokenmill.rpc")

        async def abort(request, context):
            await context.abort(STATUS.NOT_FOUND, "nothing of this name")

        async with channel_to(generate=abort) as channel:
            error = await failure(gateway_pb2_grpc.InferenceServiceStub(channel).Generate(REQUEST))
        assert (error.code(), error.details()) == (STATUS.NOT_FOUND, "nothing of this name")
        assert [record.fields["code"] for record in caplog.records if record.message == "rpc"] == ["NOT_FOUND"]

    @pytest.mark.parametrize("raw", [b"\xff\xff\xff\xff", b"\x0a\x02\xc3\x28"], ids=["not protobuf", "not UTF-8"])
    async def test_a_malformed_request_is_an_invalid_argument(self, raw):
        async def read_all(requests, context):
            async for _ in requests:
                pass
            yield worker_pb2.WorkerServiceGenerateResponse()

        async def stream(request, context):
            yield EVENT

        async with channel_to(worker_generate=read_all, stream_generate=stream) as channel:
            calls = [
                channel.unary_unary(GENERATE)(raw),
                channel.unary_stream(STREAM_GENERATE)(raw),
                channel.stream_stream(WORKER_GENERATE)(iter([raw])),
            ]
            errors = [await failure(call) for call in calls]
        # The worker's request has no string in its first field: there, the second one is a broken submessage.
        for error in errors:
            assert error.code() is STATUS.INVALID_ARGUMENT
            assert details_of(error)[0].reason == "MALFORMED_MESSAGE"

    @pytest.mark.parametrize("shape", ["unary_unary", "unary_stream", "stream_stream"])
    async def test_an_unknown_method_is_unimplemented_with_details(self, shape):
        async with channel_to() as channel:
            request = b"" if shape.startswith("unary") else iter([b""])
            error = await failure(getattr(channel, shape)("/tokenmill.v1.InferenceService/Divine")(request))
        assert error.code() is STATUS.UNIMPLEMENTED
        assert details_of(error)[0].reason == "UNKNOWN_METHOD"

    async def test_the_name_of_an_unknown_method_is_not_logged(self, caplog):
        caplog.set_level(logging.INFO)
        async with channel_to() as channel:
            await failure(channel.unary_unary("/x code=OK request_id=forged \x1b[31m")(b""))
        (line,) = [log.ConsoleFormatter().format(record) for record in caplog.records if record.message == "rpc"]
        assert "method=unknown code=UNIMPLEMENTED" in line
        assert "forged" not in line


class TestMetadata:
    async def test_the_request_id_is_taken_over_and_returned(self):
        seen = []

        async def remember(request, context):
            seen.append(current_request_id())
            return await answer(request, context)

        async with channel_to(generate=remember) as channel:
            call = gateway_pb2_grpc.InferenceServiceStub(channel).Generate(
                REQUEST, metadata=(("x-request-id", "order-66.a"),)
            )
            await call
            assert dict(await call.trailing_metadata())["x-request-id"] == "order-66.a"
        assert seen == ["order-66.a"]
        assert current_request_id() == ""

    @pytest.mark.parametrize("bad", ["", "with space", "x" * 129, 'quote"', "a;b"])
    async def test_an_unusable_request_id_is_replaced(self, bad):
        async with channel_to() as channel:
            call = gateway_pb2_grpc.InferenceServiceStub(channel).Generate(REQUEST, metadata=(("x-request-id", bad),))
            await call
            given = dict(await call.trailing_metadata())["x-request-id"]
        assert given != bad
        assert len(given) == 32

    async def test_calls_at_the_same_time_keep_their_own_ids(self):
        barrier = asyncio.Barrier(8)

        async def meet(request, context):
            await barrier.wait()
            return gateway_pb2.GenerateResponse(outputs=[gateway_pb2.Output(text=current_request_id())])

        async with channel_to(generate=meet) as channel:
            stub = gateway_pb2_grpc.InferenceServiceStub(channel)
            ids = [f"call-{number}" for number in range(8)]
            calls = [stub.Generate(REQUEST, metadata=(("x-request-id", request_id),)) for request_id in ids]
            assert [response.outputs[0].text for response in await asyncio.gather(*calls)] == ids

    async def test_a_stream_sends_its_headers_with_the_first_response(self):
        entered, go_on = asyncio.Event(), asyncio.Event()

        async def wait_first(request, context):
            entered.set()
            await go_on.wait()
            yield EVENT

        async with channel_to(stream_generate=wait_first) as channel:
            call = gateway_pb2_grpc.InferenceServiceStub(channel).StreamGenerate(REQUEST)
            headers = asyncio.create_task(call.initial_metadata())
            await entered.wait()
            assert not headers.done()
            go_on.set()
            assert await call.read() == EVENT
            await headers

    async def test_a_call_that_fails_before_its_first_response_can_be_retried_by_the_callers_library(self):
        attempts = 0

        async def fail_twice(request, context):
            nonlocal attempts
            attempts += 1
            if attempts < 3:
                raise unavailable("BUSY", "try again", retry_after_seconds=0.001)
            yield EVENT

        policy = {
            "maxAttempts": 4,
            "initialBackoff": "0.01s",
            "maxBackoff": "0.01s",
            "backoffMultiplier": 1,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
        config = json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": policy}]})
        async with connected(ScriptedService(stream_generate=fail_twice)) as (server, _):
            options = [("grpc.service_config", config)]
            async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=options) as channel:
                call = gateway_pb2_grpc.InferenceServiceStub(channel).StreamGenerate(REQUEST)
                assert [response async for response in call] == [EVENT]
        assert attempts == 3


class TestCancellation:
    async def test_a_cancelled_unary_call_cancels_its_handler(self):
        entered, left = asyncio.Event(), asyncio.Event()

        async def wait(request, context):
            entered.set()
            try:
                await asyncio.Event().wait()
            finally:
                left.set()

        async with connected(ScriptedService(generate=wait)) as (server, channel):
            call = gateway_pb2_grpc.InferenceServiceStub(channel).Generate(REQUEST)
            await entered.wait()
            tasks = calls_of(server)
            call.cancel()
            await left.wait()
            await asyncio.wait(tasks)
            assert calls_of(server) == []

    async def test_200_streams_cancelled_at_once_close_every_generator_and_leave_nothing(self):
        entered, left = 0, 0
        all_entered = asyncio.Event()

        async def talk(request, context):
            nonlocal entered, left
            try:
                yield EVENT
                entered += 1
                if entered == 200:
                    all_entered.set()
                if entered % 2:
                    await asyncio.Event().wait()
                while True:
                    yield EVENT
            finally:
                left += 1

        async with connected(ScriptedService(stream_generate=talk)) as (server, channel):
            stub = gateway_pb2_grpc.InferenceServiceStub(channel)
            calls = [stub.StreamGenerate(REQUEST) for _ in range(200)]
            await asyncio.gather(*(call.read() for call in calls))
            await all_entered.wait()
            tasks = calls_of(server)
            assert len(tasks) == 200
            for call in calls:
                call.cancel()
            await asyncio.wait(tasks)
            assert left == 200
            assert calls_of(server) == []
            assert (await stub.Generate(REQUEST)).outputs[0].text == "answer"

    async def test_a_deadline_cancels_the_handler_and_is_logged_as_what_it_is(self, caplog):
        caplog.set_level(logging.INFO, "tokenmill.rpc")
        left = asyncio.Event()

        async def wait(request, context):
            try:
                await asyncio.Event().wait()
            finally:
                left.set()

        async with channel_to(generate=wait) as channel:
            error = await failure(gateway_pb2_grpc.InferenceServiceStub(channel).Generate(REQUEST, timeout=0.2))
            await left.wait()
        assert error.code() is STATUS.DEADLINE_EXCEEDED
        assert [record.fields["code"] for record in caplog.records if record.message == "rpc"] == ["DEADLINE_EXCEEDED"]

    async def test_a_caller_that_has_said_everything_still_gets_its_answers(self):
        async def count(requests, context):
            rows = [request.stop_row.row async for request in requests]
            for row in rows:
                yield worker_pb2.WorkerServiceGenerateResponse(events=[worker_pb2.RowEvent(row=row)])

        async with channel_to(worker_generate=count) as channel:
            call = worker_pb2_grpc.WorkerServiceStub(channel).Generate()
            for row in range(3):
                await call.write(worker_pb2.WorkerServiceGenerateRequest(stop_row=worker_pb2.StopRow(row=row)))
            await call.done_writing()
            assert [response.events[0].row async for response in call] == [0, 1, 2]

    async def test_a_handler_can_end_before_its_caller_has_said_everything(self):
        async def first_only(requests, context):
            request = await anext(requests)
            yield worker_pb2.WorkerServiceGenerateResponse(events=[worker_pb2.RowEvent(row=request.stop_row.row)])

        async with channel_to(worker_generate=first_only) as channel:
            call = worker_pb2_grpc.WorkerServiceStub(channel).Generate()
            await call.write(worker_pb2.WorkerServiceGenerateRequest(stop_row=worker_pb2.StopRow(row=7)))
            assert [response.events[0].row async for response in call] == [7]
            assert await call.code() is STATUS.OK

    async def test_a_caller_that_breaks_off_in_mid_sentence_cancels_the_reader_too(self):
        reading, stopped = asyncio.Event(), asyncio.Event()

        async def read(requests):
            try:
                async for _ in requests:
                    reading.set()
            finally:
                stopped.set()

        async def listen(requests, context):
            reader = asyncio.create_task(read(requests))
            try:
                await asyncio.Event().wait()
                yield
            finally:
                reader.cancel()
                await asyncio.wait({reader})

        async with connected(ScriptedService(worker_generate=listen)) as (server, channel):
            call = worker_pb2_grpc.WorkerServiceStub(channel).Generate()
            await call.write(worker_pb2.WorkerServiceGenerateRequest())
            await reading.wait()
            tasks = calls_of(server)
            call.cancel()
            await stopped.wait()
            await asyncio.wait(tasks)
            assert calls_of(server) == []


class TestLog:
    async def test_every_call_writes_one_line_with_counts_and_without_text(self, caplog):
        caplog.set_level(logging.DEBUG)

        async def stream(request, context):
            count_tokens(prompt_tokens=3, completion_tokens=0)
            yield EVENT
            count_tokens(completion_tokens=2)

        async def refuse(request, context):
            raise ServiceError(STATUS.NOT_FOUND, "UNKNOWN_MODEL", MARKER)

        async with channel_to(stream_generate=stream, generate=refuse) as channel:
            stub = gateway_pb2_grpc.InferenceServiceStub(channel)
            metadata = (("x-request-id", "the-id"),)
            await anext(aiter(call := stub.StreamGenerate(REQUEST, metadata=metadata)))
            await call.code()
            await failure(stub.Generate(REQUEST))
            lines = [json.loads(log.JsonFormatter().format(record)) for record in caplog.records]
        streamed, refused = [line for line in lines if line["message"] == "rpc"]
        assert streamed.pop("duration_ms") >= 0
        assert {key: streamed[key] for key in streamed if key != "time"} == {
            "level": "info",
            "logger": "tokenmill.rpc",
            "message": "rpc",
            "method": STREAM_GENERATE,
            "code": "OK",
            "request_id": "the-id",
            "prompt_tokens": 3,
            "completion_tokens": 2,
        }
        assert (refused["code"], refused["reason"]) == ("NOT_FOUND", "UNKNOWN_MODEL")
        for formatter in (log.JsonFormatter(), log.ConsoleFormatter()):
            assert MARKER not in "".join(formatter.format(record) for record in caplog.records)


class TestSizes:
    async def test_a_request_over_the_limit_is_refused_and_the_connection_survives(self, monkeypatch):
        peers = []

        async def remember_peer(request, context):
            peers.append(context.peer())
            return await answer(request, context)

        async with connected(ScriptedService(generate=remember_peer)) as (_, channel):
            stub = gateway_pb2_grpc.InferenceServiceStub(channel)
            await stub.Generate(REQUEST)
            huge = gateway_pb2.GenerateRequest(prompts=gateway_pb2.TextPrompts(texts=["x" * (32 * 2**20)]))
            error = await failure(stub.Generate(huge))
            await stub.Generate(REQUEST)
        assert error.code() is STATUS.RESOURCE_EXHAUSTED
        assert from_rpc_error(error, "the gateway").reason == "MESSAGE_TOO_LARGE"
        assert peers[0] == peers[1]

    @pytest.mark.parametrize("method", ["Generate", "StreamGenerate"])
    async def test_a_response_over_the_limit_is_an_error_with_details_and_logged_as_such(self, caplog, method):
        caplog.set_level(logging.INFO)
        huge = "x" * (32 * 2**20)

        async def answer_at_length(request, context):
            return gateway_pb2.GenerateResponse(outputs=[gateway_pb2.Output(text=huge)])

        async def stream_at_length(request, context):
            yield gateway_pb2.StreamGenerateResponse(delta=gateway_pb2.Delta(text=huge))

        async with channel_to(generate=answer_at_length, stream_generate=stream_at_length) as channel:
            call = getattr(gateway_pb2_grpc.InferenceServiceStub(channel), method)
            error = await failure(call(REQUEST, metadata=(("x-request-id", "the-id"),)))
        assert error.code() is STATUS.RESOURCE_EXHAUSTED
        assert details_of(error)[0].reason == "MESSAGE_TOO_LARGE"
        assert dict(error.trailing_metadata())["x-request-id"] == "the-id"
        (record,) = [record for record in caplog.records if record.message == "rpc"]
        assert "code=RESOURCE_EXHAUSTED" in log.ConsoleFormatter().format(record)

    async def test_a_stream_that_begins_over_the_limit_is_refused(self):
        async def read_all(requests, context):
            async for _ in requests:
                pass
            yield worker_pb2.WorkerServiceGenerateResponse()

        async with channel_to(worker_generate=read_all) as channel:
            tokens = worker_pb2.WorkerServiceGenerateRequest()
            tokens.start.tokens.input_ids = bytes(32 * 2**20)
            error = await failure(worker_pb2_grpc.WorkerServiceStub(channel).Generate(iter([tokens])))
        assert error.code() is STATUS.RESOURCE_EXHAUSTED
