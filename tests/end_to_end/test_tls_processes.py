"""mTLS between processes of their own, on the event loop that they really have, with their flags."""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.certificates import serial_number
from tests.end_to_end.http import CHAT, chat
from tests.end_to_end.stack import NAME, write_model_folder
from tests.end_to_end.test_certificate_rotation import shown_to
from tests.end_to_end.tls_stack import CALLER, GATEWAY_URI, Identities, https_client
from tests.processes import GATEWAY, TOKENIZER, WORKER, ready_process, scripted

if TYPE_CHECKING:
    from pathlib import Path

    from tests.certificates import Pair

pytestmark = pytest.mark.asyncio(loop_scope="session")


def serving(who: Identities, pair: Pair, name: str) -> list[str]:
    own = ["--ssl-certfile", str(pair.certificate), "--ssl-keyfile", str(pair.key)]
    return [*own, "--ssl-ca-certs", str(who.authority.file), "--ssl-client-names", name]


async def test_flags_are_enough(tmp_path: Path) -> None:
    who, folder = Identities(tmp_path / "certificates"), write_model_folder(tmp_path / "tiny")
    model = ["--model", f"{NAME}={folder}", "--threads", "1"]
    script = scripted(folder, ids=list(range(20, 40)))
    calling = ["--backend-ssl-certfile", str(who.gateway.certificate), "--backend-ssl-keyfile", str(who.gateway.key)]
    async with (
        ready_process(TOKENIZER, *model, *serving(who, who.tokenizer, GATEWAY_URI)) as (tokenizer, at_tokenizer),
        ready_process(WORKER, *script, "--served-model-name", NAME, *serving(who, who.worker, GATEWAY_URI)) as (
            worker,
            at_worker,
        ),
        ready_process(
            GATEWAY,
            *("--tokenizer", at_tokenizer, "--worker", at_worker, "--http-port", "0"),
            *(*serving(who, who.gateway, CALLER), *calling, "--backend-ssl-ca-certs", str(who.authority.file)),
        ) as (gateway, at_gateway),
    ):
        port = next(json.loads(line)["port"] for line in gateway.lines if "listening for HTTP" in line)
        context = ssl.create_default_context(cafile=str(who.authority.file))
        context.load_cert_chain(who.caller.certificate, who.caller.key)
        async with https_client(f"https://localhost:{port}", context) as client:
            assert (await client.post(CHAT, json=chat())).status_code == 200
            new = who.authority.pair("gateway", GATEWAY_URI, "localhost", file="gateway-2")
            who.gateway.become(new)
            assert await shown_to(context, port) == serial_number(new.certificate.read_bytes())
            assert (await client.post(CHAT, json=chat())).status_code == 200
        heard = len(gateway.lines)
        for one in (port, *(int(address.rpartition(":")[2]) for address in (at_tokenizer, at_worker, at_gateway))):
            await knock(who, one)
        async with https_client(f"https://localhost:{port}", context) as client:
            assert (await client.post(CHAT, json=chat())).status_code == 200
        for process in (gateway, worker, tokenizer):
            process.signal(signal.SIGTERM)
            assert await process.exit_code() == 0
            assert not [line for line in process.lines if "andshake" in line or "server name" in line]
        levels = {json.loads(line)["level"] for line in gateway.lines[heard:]}
        assert levels == {"info"}  # nobody can fill the log


async def knock(who: Identities, port: int) -> None:
    """What strangers do: no certificate, another one's name, no TLS."""
    context = ssl.create_default_context(cafile=str(who.authority.file))
    context.check_hostname = False
    for tls, name in ((context, "another.name"), (None, None)):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=name)
        writer.write(b"x" * 100)
        with suppress(ssl.SSLError, ConnectionError):
            await reader.read()
        writer.transport.abort()
