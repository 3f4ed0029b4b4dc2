"""Several tokenizer services behind one gateway: what callers notice when they come, go and restart."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from gateway.server import GatewayService
from gateway.settings import GatewaySettings
from model_worker.engines.fake_faults import Gate
from rpc.start_error import StartError
from tests.end_to_end.heard import hear, refusal
from tests.end_to_end.requests import Stopping, chat, generate, generate_tokens, message
from tests.end_to_end.stack import NAME, address, gated_stack, reached, running_stack
from tests.serving import RunningServer, ready
from tokenizer_service.server import TokenizerService
from tokenizer_service.settings import TokenizerSettings
from tokenmill.v1 import gateway_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.end_to_end.stack import Stack, TokenizerTier

pytestmark = pytest.mark.asyncio(loop_scope="session")
SHORT = Stopping(max_new_tokens=3)


@asynccontextmanager
async def tokenizer(tier: TokenizerTier, port: int = 0) -> AsyncIterator[RunningServer]:
    """One more tokenizer service for the same model; as a deployed one it takes calls for a while when it stops."""
    settings = TokenizerSettings(
        model=(f"{NAME}={tier.folder}",), port=port, drain_seconds=0.2, threads=1, template_seconds=20.0
    )
    async with ready(TokenizerService(settings), settings) as server:
        yield server


async def ask_for_ever(stack: Stack, answered: list[int]) -> None:
    """One request of each kind after another."""
    count = gateway_pb2.CountTokensRequest(chat=chat(message("A list")))
    while True:
        await stack.gateway.Chat(chat(message("A list"), stopping=SHORT))
        await stack.gateway.Generate(generate("A list", stopping=SHORT))
        await stack.gateway.CountTokens(count)
        await stack.gateway.GetModel(gateway_pb2.GetModelRequest())
        answered[0] += 1


async def more(answered: list[int], asking: list[asyncio.Task[None]]) -> None:
    """Return once twenty more rounds have been answered; fail as soon as one is not."""
    wanted = answered[0] + 20
    while answered[0] < wanted:
        done, _ = await asyncio.wait(asking, timeout=0.01)
        for task in done:
            task.result()


async def test_a_rolling_restart_of_the_tokenizer_services_loses_nothing(tier: TokenizerTier) -> None:
    async with AsyncExitStack() as stack:
        lives = [await begun(tier) for _ in range(2)]
        ports = [server.port for _, server in lives]
        try:
            targets = tuple(address(server) for _, server in lives)
            running = await stack.enter_async_context(running_stack(tier, gateway={"tokenizer": targets}))
            answered = [0]
            asking = [asyncio.create_task(ask_for_ever(running, answered)) for _ in range(4)]
            for place, port in enumerate(ports):
                await more(answered, asking)
                await lives[place][0].aclose()
                await more(answered, asking)
                lives[place] = await begun(tier, port)
                await more(answered, asking)
                while not all(instance.is_ready for instance in running.gateway_service._services._members):
                    await running.gateway_service._services.wait_for_change()
            before = [server.calls.begun for _, server in lives]
            await more(answered, asking)
            assert all(server.calls.begun > count for (_, server), count in zip(lives, before, strict=True))
            for task in asking:
                task.cancel()
            await asyncio.wait(asking)
        finally:
            for life, _ in lives:
                await life.aclose()


async def begun(tier: TokenizerTier, port: int = 0) -> tuple[AsyncExitStack, RunningServer]:
    """A tokenizer service that runs until what is returned first is closed."""
    life = AsyncExitStack()
    return life, await life.enter_async_context(tokenizer(tier, port))


async def test_a_stream_that_runs_does_not_need_the_tokenizer_service(tier: TokenizerTier) -> None:
    life, server = await begun(tier)
    gate = Gate()
    gateway: dict[str, Any] = {"tokenizer": (address(server),), "failover_seconds": 0}
    async with gated_stack(tier, gate, gateway=gateway) as stack:
        request = chat(message("A list"), stopping=Stopping(max_new_tokens=50))
        stream = asyncio.create_task(hear(stack.gateway.StreamChat(request)))
        await reached(gate)
        await life.aclose()
        assert (await refusal(stack.gateway.Chat(request))).code is grpc.StatusCode.UNAVAILABLE
        gate.open()
        heard = await stream
        assert len(heard.token_ids[0]) == 50
        assert heard.texts[0]
        assert (await stack.gateway.Generate(generate_tokens([5, 6]))).outputs[0].text, "nor do token prompts"


async def test_a_target_that_cannot_be_understood_is_named_at_the_start() -> None:
    settings = GatewaySettings(tokenizer=("dns:nothing",), worker=("localhost:1",))
    with pytest.raises(StartError, match=r"--tokenizer: 'nothing' is not host:port"):
        GatewayService(settings)
