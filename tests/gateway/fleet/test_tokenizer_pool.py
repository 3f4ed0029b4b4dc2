"""Several tokenizer services: who is asked, and who is asked instead."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc
import pytest

from gateway.deadline import Deadline
from gateway.fleet import tokenizer_instance
from gateway.fleet.breaker import FAILURES
from gateway.fleet.retry_budget import RESERVE, SHARE
from gateway.fleet.targets import Given, ListFile
from gateway.fleet.tokenizer_pool import MAX_ATTEMPTS, TokenizerPool
from rpc.errors import ServiceError
from tests.gateway.fleet.scripted_tokenizer import ScriptedTokenizer, scripted_tokenizers
from tokenmill.v1 import tokenizer_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from gateway.fleet.targets import Source
    from gateway.fleet.tokenizer_instance import Stub

CODE = grpc.StatusCode
LONG = 60.0  # an attempt that ends before has not ended by itself


@asynccontextmanager
async def pool_of(
    *services: ScriptedTokenizer,
    attempt_seconds: float = LONG,
    wait_seconds: float = LONG,
    sources: Source | None = None,
) -> AsyncIterator[TokenizerPool]:
    """A pool that has seen every one of `services` ready."""
    given = [Given(service.target) for service in services]
    pool = TokenizerPool([sources] if sources else given, attempt_seconds, wait_seconds)
    try:
        await ready(pool, len(services))
        yield pool
    finally:
        await pool.close()


async def ready(pool: TokenizerPool, count: int) -> None:
    while sum(instance.is_ready for instance in pool._members) != count:
        await pool.wait_for_change()


async def encode(pool: TokenizerPool, seconds: float | None = None) -> str:
    """The name of the service that has answered."""
    deadline = Deadline.after(seconds)

    async def call(stub: Stub) -> tokenizer_pb2.EncodeResponse:
        return await stub.Encode(tokenizer_pb2.EncodeRequest(), timeout=deadline.remaining())

    return (await pool.ask(call, deadline)).vocabulary_fingerprint


async def test_the_one_with_the_fewest_calls_is_asked():
    async with scripted_tokenizers("a", "b", "c") as services, pool_of(*services) as pool:
        for service in services:
            service.go.clear()
        calls = [asyncio.create_task(encode(pool)) for _ in range(6)]
        for service in services:
            await service.holds(2)
        services[1].go.set()
        while len([call for call in calls if call.done()]) < 2:
            await asyncio.wait([call for call in calls if not call.done()], return_when=asyncio.FIRST_COMPLETED)
        assert [await encode(pool) for _ in range(5)] == ["b"] * 5
        for service in services:
            service.go.set()
        assert sorted(await asyncio.gather(*calls)) == sorted("abc" * 2)


async def test_among_equals_chance_decides():
    async with scripted_tokenizers("a", "b") as services, pool_of(*services) as pool:
        assert {await encode(pool) for _ in range(64)} == {"a", "b"}


@pytest.mark.parametrize("code", [CODE.UNAVAILABLE, CODE.INTERNAL], ids=["unavailable", "the library's own failure"])
async def test_what_is_unavailable_is_asked_elsewhere_but_not_for_ever(code: grpc.StatusCode):
    async with scripted_tokenizers("a", "b", "c", "d") as services, pool_of(*services) as pool:
        for service in services:
            service.fails = code
        with pytest.raises(ServiceError, match="cannot be reached") as failure:
            await encode(pool)
        assert failure.value.is_unavailable
        assert [service.asked for service in services].count(1) == MAX_ATTEMPTS
        assert sum(service.asked for service in services) == MAX_ATTEMPTS


async def test_a_breaker_counts_as_open_as_long_as_its_service_is_ready_and_fails():
    async with scripted_tokenizers("a", "b") as services, pool_of(*services) as pool:
        services[0].fails = CODE.UNAVAILABLE
        while services[0].asked < FAILURES:
            assert pool.open_breakers == 0
            assert await encode(pool) == "b"
        assert pool.open_breakers == 1
        await services[0].stop()
        await ready(pool, 1)
        assert pool.open_breakers == 0


@pytest.mark.parametrize("code", [CODE.INVALID_ARGUMENT, CODE.FAILED_PRECONDITION])
async def test_what_is_wrong_with_the_request_itself_is_not_asked_again(code: grpc.StatusCode):
    async with scripted_tokenizers("a", "b") as services, pool_of(*services) as pool:
        for service in services:
            service.fails = code
        for _ in range(8):
            with pytest.raises(ServiceError):
                await encode(pool)
        assert sum(service.asked for service in services) == 8


async def test_an_attempt_that_takes_too_long_is_made_elsewhere():
    async with scripted_tokenizers("slow", "b") as services, pool_of(*services, attempt_seconds=0.5) as pool:
        services[0].go.clear()
        assert {await encode(pool) for _ in range(8)} == {"b"}
        assert services[0].asked


async def test_one_that_is_slow_and_alone_is_not_asked_for_the_same_again():
    async with scripted_tokenizers("slow") as [slow], pool_of(slow, attempt_seconds=0.5) as pool:
        slow.go.clear()
        with pytest.raises(ServiceError) as failure:
            await encode(pool)
        assert (failure.value.code, failure.value.reason, slow.asked) == (CODE.UNAVAILABLE, "TOKENIZER_TIMEOUT", 1)
        assert failure.value.retry_after_seconds


async def test_no_attempt_outlasts_the_deadline():
    async with scripted_tokenizers("slow", "b") as services, pool_of(*services) as pool:
        for service in services:
            service.go.clear()
        with pytest.raises(ServiceError) as failure:
            await encode(pool, seconds=0.2)
        assert failure.value.code is CODE.DEADLINE_EXCEEDED
        assert sum(service.asked for service in services) == 1


async def test_calls_at_one_that_freezes_are_made_elsewhere_however_long_they_may_take(monkeypatch):
    monkeypatch.setattr(tokenizer_instance, "PING_SECONDS", 0.1)
    monkeypatch.setattr(tokenizer_instance, "SILENT_SECONDS", 1.0)
    async with scripted_tokenizers("frozen", "b") as services, pool_of(*services) as pool:
        frozen, other = services
        for service in services:
            service.go.clear()
        calls = [asyncio.create_task(encode(pool)) for _ in range(4)]
        for service in services:
            await service.holds(2)
        other.go.set()
        frozen.freeze()
        assert await asyncio.gather(*calls) == ["b"] * 4
        asked = frozen.asked
        assert {await encode(pool) for _ in range(8)} == {"b"}
        assert frozen.asked == asked
        frozen.health.thawed.set()
        frozen.go.set()
        await ready(pool, 2)


async def test_calls_at_one_that_dies_are_made_elsewhere():
    async with scripted_tokenizers("a", "b") as services, pool_of(*services) as pool:
        for service in services:
            service.go.clear()
        calls = [asyncio.create_task(encode(pool)) for _ in range(200)]
        for service in services:
            await service.holds(100)
        services[1].go.set()
        await services[0].stop()
        assert await asyncio.gather(*calls) == ["b"] * 200


async def test_one_that_has_failed_is_asked_again_as_soon_as_it_has_restarted():
    async with scripted_tokenizers("a") as [service], pool_of(service) as pool:
        for _ in range(2):
            service.go.clear()
            calls = [asyncio.create_task(encode(pool)) for _ in range(8)]
            await service.holds(8)
            await service.stop()
            service.go.set()
            await service.start()
            assert await asyncio.gather(*calls) == ["a"] * 8


async def test_one_that_fails_again_and_again_is_left_alone():
    async with scripted_tokenizers("broken", "b") as services, pool_of(*services) as pool:
        services[0].fails = CODE.UNAVAILABLE
        assert {await encode(pool) for _ in range(64)} == {"b"}
        assert services[0].asked <= 5, "three until it is left alone, and what is tried after a second"


async def test_retries_are_few_beside_the_requests_when_everyone_fails():
    async with scripted_tokenizers("a", "b") as services, pool_of(*services) as pool:
        for service in services:
            service.fails = CODE.UNAVAILABLE
        requests = 2 * int(RESERVE)
        answers = await asyncio.gather(*(encode(pool) for _ in range(requests)), return_exceptions=True)
        assert all(isinstance(answer, ServiceError) for answer in answers)
        assert sum(service.asked for service in services) <= requests + RESERVE + SHARE * requests + 1


async def test_a_request_waits_for_a_service_but_not_for_ever():
    async with scripted_tokenizers("a") as [service]:
        async with pool_of(service) as pool:
            service.health.set_ready(ready=False)
            await ready(pool, 0)
            call = asyncio.create_task(encode(pool))
            service.health.set_ready(ready=True)
            assert await call == "a"
            service.health.set_ready(ready=False)
            await ready(pool, 0)
            with pytest.raises(ServiceError) as failure:
                await encode(pool, seconds=0.2)
            assert failure.value.code is CODE.DEADLINE_EXCEEDED
        async with pool_of(wait_seconds=0.1, sources=Given(service.target)) as pool:
            with pytest.raises(ServiceError) as failure:
                await encode(pool)
            assert (failure.value.code, failure.value.reason) == (CODE.UNAVAILABLE, "NO_TOKENIZER")


async def test_services_that_come_and_go_are_noticed_and_calls_that_run_are_finished(tmp_path: Path):
    targets = tmp_path / "targets"
    async with scripted_tokenizers("a", "b") as [old, new]:
        targets.write_text(old.target)
        async with pool_of(old, sources=ListFile(targets)) as pool:
            old.go.clear()
            running = asyncio.create_task(encode(pool))
            await old.holds(1)
            targets.write_text(new.target)
            await ready(pool, 2)
            assert {await encode(pool) for _ in range(16)} == {"b"}
            old.go.set()
            assert await running == "a"
            await ready(pool, 1)
            assert {await encode(pool) for _ in range(4)} == {"b"}
