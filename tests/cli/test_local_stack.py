from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

from cli.chat_stream import greedy_chat, stream_chat
from cli.local_stack import LocalStack, Ports, StackError
from tests.cli.stack_support import Screen, children, fake_stack
from tests.clients.canned_gateway import TEXT


def is_listening(address: str) -> bool:
    host, port = address.split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


async def test_a_stack_answers_inside_its_context_and_is_gone_after_it() -> None:
    pieces: list[str] = []
    async with fake_stack() as stack:
        addresses = dict(stack.addresses)
        assert len(children()) == 3
        assert set(stack.pids) == set(addresses)
        await stack.unless_one_ends(stream_chat(addresses["gateway"], greedy_chat("Hello?", 8), pieces.append))
    assert "".join(pieces) == TEXT
    assert set(addresses) == {"gateway", "tokenizer", "worker"}
    assert children() == []
    assert not any(is_listening(address) for address in addresses.values())


async def test_the_gateway_is_stopped_first_and_the_tokenizer_last() -> None:
    screen = Screen()
    stack = fake_stack(screen=screen)
    async with LocalStack(stack.options, stack.progress, verbose=True):
        pass
    ended = [line.split()[0] for line in screen.getvalue().splitlines() if " stopped" in line]
    assert ended == ["gateway:", "worker:", "tokenizer:"]


async def test_progress_shows_every_stage_of_loading() -> None:
    screen = Screen()
    stack = fake_stack("--behaviour", "never-ready", screen=screen)
    starting = asyncio.create_task(stack.__aenter__())
    await screen.shows("worker: quantizing\n")
    await screen.shows("tokenizer: ready\n")
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert children() == []


async def test_a_service_that_cannot_load_ends_the_start_with_its_own_words() -> None:
    with pytest.raises(StackError) as caught:
        async with fake_stack("--behaviour", "fails-to-load"):
            pass
    assert "worker ended with exit code 1" in str(caught.value)
    assert "fake: the model folder lacks config.json" in str(caught.value)
    assert children() == []


async def test_a_service_that_dies_later_ends_the_work_in_hand() -> None:
    async with fake_stack() as stack:
        worker = stack._processes[1]
        os.kill(worker.process.pid, signal.SIGKILL)
        with pytest.raises(StackError, match="worker was killed by SIGKILL"):
            await stack.unless_one_ends(asyncio.Event().wait())
    assert children() == []


async def test_a_broken_engine_is_reported_with_its_reason() -> None:
    with pytest.raises(StackError, match="the engine is broken"):
        async with fake_stack("--behaviour", "dies-when-ready") as stack:
            await stack.unless_one_ends(asyncio.Event().wait())


async def test_work_that_fails_because_its_service_died_is_reported_as_that_death() -> None:
    async with fake_stack() as stack:
        gateway = stack._processes[2]

        def kill(text: str) -> None:
            os.kill(gateway.process.pid, signal.SIGKILL)

        request = greedy_chat("Hello?", 8)
        request.stopping.ignore_eos = True
        with pytest.raises(StackError, match="gateway was killed by SIGKILL"):
            await stack.unless_one_ends(stream_chat(stack.addresses["gateway"], request, kill))


async def test_a_service_that_ignores_sigterm_is_killed_after_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.local_stack.STOP_SECONDS", 0.5)
    async with fake_stack("--behaviour", "ignores-sigterm"):
        started = time.monotonic()
    assert time.monotonic() - started < 10
    assert children() == []


async def test_a_second_interruption_cuts_the_stop_short() -> None:
    stack = fake_stack("--behaviour", "ignores-sigterm")
    await stack.__aenter__()
    stopping = asyncio.create_task(stack.stop())
    await stack._processes[2].process.wait()  # the gateway has gone, the worker will not
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert children() == []


async def test_a_taken_port_is_one_clear_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        stack = fake_stack()
        ports = Ports(gateway=0, tokenizer=taken.getsockname()[1], worker=0)
        stack = LocalStack(dataclasses.replace(stack.options, ports=ports), stack.progress)
        with pytest.raises(StackError, match="cannot listen on"):
            async with stack:
                pass


def test_the_services_die_with_a_parent_that_is_killed() -> None:
    script = (
        "import asyncio, sys\n"
        "from tests.cli.stack_support import fake_stack\n"
        "async def main():\n"
        "    async with fake_stack():\n"
        "        print('up', flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == "up\n"
        services = psutil.Process(parent.pid).children(recursive=True)
        assert len(services) == 3
        parent.kill()
    _, alive = psutil.wait_procs(services, timeout=5)
    assert alive == []
