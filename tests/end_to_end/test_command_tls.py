"""The `tokenmill` command against services that speak TLS, and against those that want to know who calls (mTLS)."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from cli.failure import FAILED, UNAVAILABLE, WRONG_USAGE
from tests.end_to_end.access import RIGHT_KEY, entry, write_keys
from tests.end_to_end.requests import generate
from tests.end_to_end.stack import NAME
from tests.end_to_end.test_command import command
from tests.end_to_end.tls_stack import TlsStack, caller_of, tls_stack
from tests.rpc.scripted_service import ScriptedService, settings
from tests.serving import listening

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.certificates import Pair

pytestmark = pytest.mark.asyncio(loop_scope="session")

COMMANDS = {
    "models": (("models",), ""),
    "generate": (("generate", "The quick brown fox", "--max-new-tokens", "10"), ""),
    "chat": (("chat", "--max-new-tokens", "10"), "A list of colors\n/exit\n"),
    "bench": (("bench", "--num-prompts", "2", "--random-input-len", "4", "--random-output-len", "4"), ""),
}


@dataclass
class Secured:
    """A stack whose gateway wants a key, and flags of who may call it."""

    stack: TlsStack
    is_mutual: bool

    @property
    def gateway(self) -> list[str]:
        return ["--gateway", f"localhost:{self.stack.gateway.port}"]

    @property
    def tls(self) -> list[str]:
        trusted = ["--ssl-ca-certs", str(self.stack.who.authority.file)]
        return trusted + (shown(self.stack.who.caller) if self.is_mutual else [])


def shown(pair: Pair) -> list[str]:
    return ["--ssl-certfile", str(pair.certificate), "--ssl-keyfile", str(pair.key)]


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["TLS", "mTLS"])
async def secured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Secured]:
    folder = tmp_path_factory.mktemp("command")
    given = {"api_key_file": write_keys(folder / "keys.json", entry(RIGHT_KEY))}
    if request.param == "TLS":
        given |= {"ssl_ca_certs": None, "ssl_client_names": ()}
    async with tls_stack(folder, **given) as stack:
        yield Secured(stack, is_mutual=request.param == "mTLS")


@pytest.mark.parametrize(("arguments", "typed"), COMMANDS.values(), ids=COMMANDS)
async def test_a_command_with_key_and_certificates_is_answered(
    secured: Secured, arguments: tuple[str, ...], typed: str
) -> None:
    where = (*secured.gateway, *secured.tls, "--api-key", RIGHT_KEY)
    code, output, errors = await command(*arguments, *where, typed=typed)
    assert (code, errors) == (0, "")
    assert output


@pytest.mark.parametrize(("arguments", "typed"), COMMANDS.values(), ids=COMMANDS)
async def test_one_without_a_key_is_told_how_to_show_one(
    secured: Secured, arguments: tuple[str, ...], typed: str
) -> None:
    code, output, errors = await command(*arguments, *secured.gateway, *secured.tls, typed=typed)
    assert (code, output, "TOKENMILL_API_KEY" in errors) == (FAILED, "", True)


@pytest.mark.parametrize("without", ["authorities", "TLS", "the right authority"])
async def test_one_that_does_not_know_the_gateway_does_not_reach_it(secured: Secured, without: str) -> None:
    flags = {
        "authorities": secured.tls[2:],
        "TLS": [],
        "the right authority": ["--ssl-ca-certs", str(secured.stack.who.foreign_authority.file)],
    }[without]
    code, output, errors = await command("models", *secured.gateway, *flags, "--api-key", RIGHT_KEY)
    is_half = without == "authorities" and bool(flags)
    assert (code, output) == (WRONG_USAGE if is_half else UNAVAILABLE, "")
    assert RIGHT_KEY not in errors


async def test_a_gateway_that_wants_a_certificate_answers_nobody_else(secured: Secured) -> None:
    flags = ("--ssl-ca-certs", str(secured.stack.who.authority.file))
    code, _, _ = await command("models", *secured.gateway, *flags, "--api-key", RIGHT_KEY)
    assert code == (UNAVAILABLE if secured.is_mutual else 0)
    if secured.is_mutual:
        stranger = shown(secured.stack.who.stranger)
        code, _, errors = await command("models", *secured.gateway, *flags, *stranger, "--api-key", RIGHT_KEY)
        assert code == FAILED
        assert "certificate" in errors


@pytest.mark.parametrize("service", ["tokenizer", "worker", "gateway"])
async def test_a_service_can_be_probed_with_its_own_certificate(secured: Secured, service: str) -> None:
    stack = secured.stack
    where = f"localhost:{getattr(stack, service).port}"
    own = ["--ssl-ca-certs", str(stack.who.authority.file), *shown(getattr(stack.who, service))]
    name = [] if service == "gateway" else ["--ssl-server-name", service]
    for live in ([], ["--live"]):
        assert await command("health", where, *own, *name, *live) == (0, f"{where}: SERVING\n", "")
    assert (await command("health", where, "--timeout", "1"))[:2] == (UNAVAILABLE, f"{where}: no answer\n")


async def test_a_probe_shows_that_a_service_is_drained_and_lives(secured: Secured) -> None:
    where = f"localhost:{secured.stack.gateway.port}"
    secured.stack.gateway.health.set_drained(drained=True)
    try:
        assert (await command("health", where, *secured.tls))[:2] == (UNAVAILABLE, f"{where}: NOT_SERVING\n")
        assert (await command("health", where, *secured.tls, "--live"))[:2] == (0, f"{where}: SERVING\n")
    finally:
        secured.stack.gateway.health.set_drained(drained=False)


async def test_a_service_that_loads_lives_and_is_not_ready() -> None:
    async with listening(ScriptedService(start=asyncio.Event().wait), settings()) as server:
        where = f"127.0.0.1:{server.port}"
        assert (await command("health", where))[:2] == (UNAVAILABLE, f"{where}: NOT_SERVING\n")
        assert (await command("health", where, "--live"))[0] == 0


async def test_a_probe_of_somebody_who_says_nothing_ends_in_time() -> None:
    taken: list[asyncio.StreamWriter] = []
    async with AsyncExitStack() as around:
        server = await asyncio.start_server(lambda _, writer: taken.append(writer), "127.0.0.1", 0)
        around.push_async_callback(server.wait_closed)
        around.callback(server.close)
        where = [f"127.0.0.1:{server.sockets[0].getsockname()[1]}", "no.such.host.invalid:1"]
        async with asyncio.timeout(30):
            code, output, _ = await command("health", *where, "--timeout", "0.5")
        assert (code, output) == (UNAVAILABLE, "".join(f"{one}: no answer\n" for one in where))
        for writer in taken:
            writer.transport.abort()


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
async def test_a_time_that_is_none_is_refused(seconds: str) -> None:
    code, output, errors = await command("health", "127.0.0.1:1", f"--timeout={seconds}")
    assert (code, output, "--timeout" in errors) == (WRONG_USAGE, "", True)


async def test_the_text_is_the_same_as_over_grpc(secured: Secured) -> None:
    if secured.is_mutual:
        async with caller_of(secured.stack) as gateway:
            metadata = (("authorization", f"Bearer {RIGHT_KEY}"),)
            text = (await gateway.Generate(generate(model=NAME), metadata=metadata)).outputs[0].text
        where = (*secured.gateway, *secured.tls, "--api-key", RIGHT_KEY)
        assert (await command(*COMMANDS["generate"][0], *where))[1] == text + "\n"
