"""The `tokenmill` command as a person uses it, against a running stack: its output, its errors, its exit codes."""

from __future__ import annotations

import asyncio
import re
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from cli.failure import FAILED, UNAVAILABLE, WRONG_USAGE
from gateway.server import GatewayService
from gateway.settings import GatewaySettings
from model_worker.engines.fake_faults import Gate
from tests.certificates import Authority
from tests.end_to_end.requests import chat, generate
from tests.end_to_end.stack import NAME, Stack, TokenizerTier, address, gated_stack, reached, running_stack
from tests.serving import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(tier: TokenizerTier) -> AsyncIterator[Stack]:
    async with running_stack(tier) as running:
        yield running


async def started(*arguments: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cli", *arguments, stdin=pipe, stdout=pipe, stderr=pipe
    )


async def command(*arguments: str, typed: str = "") -> tuple[int, str, str]:
    """Exit code, output and errors of `tokenmill arguments…`."""
    process = await started(*arguments)
    output, errors = await process.communicate(typed.encode())
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


async def test_models_are_listed(stack: Stack) -> None:
    code, output, _ = await command("models", "--gateway", address(stack.gateway_server))
    heads, row = output.splitlines()
    assert code == 0
    assert heads.startswith("name")
    assert row.split()[0] == NAME


async def test_a_text_is_continued(stack: Stack) -> None:
    text = (await stack.gateway.Generate(generate())).outputs[0].text
    where = ("--gateway", address(stack.gateway_server), "--max-new-tokens", "10")
    assert await command("generate", "The quick brown fox", *where) == (0, text + "\n", "")
    assert await command("generate", *where, typed="The quick brown fox") == (0, text + "\n", "")


async def test_a_chat_remembers_what_was_said(stack: Stack) -> None:
    first = (await stack.gateway.Chat(chat())).outputs[0].text
    where = ("--gateway", address(stack.gateway_server), "--max-new-tokens", "10")
    typed = "A list of colors\n/clear\nA list of colors\n/again\n/set nonsense 1\n/exit\n"
    code, output, errors = await command("chat", *where, typed=typed)
    assert (code, errors) == (0, "")
    assert output.count(first) == 3
    assert "no parameter 'nonsense'" in output


async def test_ctrl_c_stops_an_answer_and_not_the_program(tier: TokenizerTier) -> None:
    import signal

    gate = Gate()
    async with gated_stack(tier, gate) as stack:
        process = await started("chat", "--gateway", address(stack.gateway_server), "--max-new-tokens", "10000")
        assert process.stdin is not None
        process.stdin.write(b"A list of colors\n")
        await reached(gate)
        process.send_signal(signal.SIGINT)
        await stack.gateway_server.calls.are(0)  # it has left before there is more to say
        gate.open()
        await stack.idle()
        process.stdin.write(b"/exit\n")
        output, _ = await process.communicate()
        assert process.returncode == 0
        assert b"(stopped)" in output


async def test_a_gateway_is_measured(stack: Stack) -> None:
    where = ("--gateway", address(stack.gateway_server), "--num-prompts", "5", "--max-concurrency", "2")
    code, output, errors = await command("bench", *where, "--random-input-len", "4", "--random-output-len", "6")
    assert (code, errors) == (0, "")
    assert output.startswith("5 answers in ")
    assert "generated tokens: 30," in output
    assert re.search(r"first text, ms( +[\d.,]+){3}\n", output)


async def test_what_failed_while_measuring_is_told(stack: Stack) -> None:
    where = ("--gateway", address(stack.gateway_server), "--num-prompts", "3")
    code, output, errors = await command("bench", *where, "--random-input-len", "100000")
    assert (code, output) == (WRONG_USAGE, "")
    assert "prompt" in errors
    code, _, errors = await command("bench", *where, "--request-rate", "0")
    assert (code, "above 0" in errors) == (WRONG_USAGE, True)


async def test_health_is_told_for_each_service(stack: Stack) -> None:
    ready = address(stack.gateway_server)
    assert await command("health", ready) == (0, f"{ready}: SERVING\n", "")
    code, output, _ = await command("health", ready, "127.0.0.1:1", "--timeout", "0.5")
    assert (code, output.splitlines()[1]) == (UNAVAILABLE, "127.0.0.1:1: no answer")


async def test_errors_are_one_line_and_a_hint(stack: Stack) -> None:
    code, _, errors = await command("models", "--gateway", "127.0.0.1:1")
    assert (code, errors.splitlines()[0]) == (UNAVAILABLE, "tokenmill: nobody answers at 127.0.0.1:1")
    assert "tokenmill up" in errors
    where = ("--gateway", address(stack.gateway_server))
    code, _, errors = await command("generate", "x", "--model", "other", *where)
    assert code == WRONG_USAGE
    assert "'other' is not served here" in errors
    code, _, errors = await command("generate", "x", "--temperature", "-1", *where)
    assert (code, "temperature" in errors) == (WRONG_USAGE, True)
    code, _, errors = await command("generate", *where)
    assert (code, "nothing to continue" in errors) == (WRONG_USAGE, True)


async def test_a_key_is_made_and_opens_a_gateway_over_tls(tier: TokenizerTier, tmp_path: Path) -> None:
    code, entry, said = await command("key", "billing", "--tenant", "finance", "--model", NAME, "--max-inflight", "4")
    key = said.removeprefix("key: ").strip()
    assert code == 0
    assert key not in entry
    pair = Authority(tmp_path).pair("server")
    (tmp_path / "keys.toml").write_text(entry)
    tls = {"ssl_certfile": pair.certificate, "ssl_keyfile": pair.key}
    async with ready_gateway(tier, api_key_file=tmp_path / "keys.toml", **tls) as port:
        where = "--gateway", f"localhost:{port}", "--ssl-ca-certs", str(tmp_path / "authority.pem")
        code, output, _ = await command("models", *where, "--api-key", key)
        assert (code, output.splitlines()[1].split()[0]) == (0, NAME)
        code, _, errors = await command("models", *where)
        assert code == FAILED
        assert "TOKENMILL_API_KEY" in errors
        tls_flags = where[2:]
        assert (await command("health", f"localhost:{port}", *tls_flags))[:2] == (0, f"localhost:{port}: SERVING\n")
        by_address = f"127.0.0.1:{port}", *tls_flags, "--ssl-server-name", "server"
        assert (await command("health", *by_address))[0] == 0
        assert (await command("health", f"localhost:{port}"))[0] == UNAVAILABLE


async def test_files_of_tls_that_are_half_given_are_refused(stack: Stack) -> None:
    for flags in (("--ssl-certfile", "x"), ("--ssl-ca-certs", "/nowhere/x"), ("--ssl-server-name", "x")):
        code, _, errors = await command("models", "--gateway", address(stack.gateway_server), *flags)
        assert code == WRONG_USAGE
        assert "--ssl-" in errors


@asynccontextmanager
async def ready_gateway(tier: TokenizerTier, **given: Any) -> AsyncIterator[int]:
    """The port of a gateway with settings of its own, once it is ready."""
    async with running_stack(tier) as stack:
        behind = {"tokenizer": (address(tier.server),), "worker": (address(stack.worker_server),)}
        own = GatewaySettings(port=0, drain_seconds=0, **behind, **given)
        async with serving(GatewayService(own), own) as port:
            yield port
