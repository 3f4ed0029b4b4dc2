"""What a credential brings along: its tenant, its models, its limits, and its end. Files change while calls run."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any

import grpc
import openai
import pytest

from model_worker.engines.fake_faults import Gate
from rpc.status import from_rpc_error
from tests.certificates import replace
from tests.end_to_end.access import RIGHT_KEY, Issuer, entry, write_access, write_jwks, write_keys
from tests.end_to_end.http import CHAT, HTTP, chat, http_client, url_of
from tests.end_to_end.requests import Stopping, generate
from tests.end_to_end.stack import NAME, TokenizerTier, gated_stack, reached, running_stack

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.asyncio(loop_scope="session")

OTHER_KEY = "other-77c0e1a9b4"


def bearing(credential: str, **more: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {credential}"), *more.items())


async def refusal(attempt: Any) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await attempt
    return from_rpc_error(caught.value, "the gateway")


async def test_a_key_that_is_taken_out_is_out_and_a_new_one_is_in(tier: TokenizerTier, tmp_path: Path) -> None:
    file = write_keys(tmp_path / "keys.json", entry(RIGHT_KEY))
    async with running_stack(tier, gateway={"api_key_file": file}) as stack:
        await stack.gateway.Generate(generate(), metadata=bearing(RIGHT_KEY))
        replace(file, json.dumps({"keys": [entry(OTHER_KEY)]}))
        assert (await refusal(stack.gateway.Generate(generate(), metadata=bearing(RIGHT_KEY)))).reason == (
            "INVALID_CREDENTIALS"
        )
        await stack.gateway.Generate(generate(), metadata=bearing(OTHER_KEY))


async def test_a_file_that_is_broken_or_gone_changes_nothing(
    tier: TokenizerTier, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write_keys(tmp_path / "keys.json", entry(RIGHT_KEY))
    async with running_stack(tier, gateway={"api_key_file": file}) as stack:
        for broken in ("", '{"keys": [{"name": "x"}]}', "keys = ["):
            caplog.clear()
            replace(file, broken or "keys")
            await stack.gateway.Generate(generate(), metadata=bearing(RIGHT_KEY))
            assert [record.levelname for record in caplog.records if record.name == "tokenmill.reloaded"] == ["ERROR"]
        file.unlink()
        await stack.gateway.Generate(generate(), metadata=bearing(RIGHT_KEY))


async def test_the_issuers_keys_are_replaced_without_a_failed_token(tier: TokenizerTier, tmp_path: Path) -> None:
    old, new = Issuer("one"), Issuer("two")
    access = write_access(tmp_path, old)
    async with running_stack(tier, gateway=access) as stack:
        token, new_token = old.token(), new.token()
        await stack.gateway.Generate(generate(), metadata=bearing(token))
        write_jwks(access["jwt_jwks_file"], old, new)
        for one in (token, new_token):
            await stack.gateway.Generate(generate(), metadata=bearing(one))
        write_jwks(access["jwt_jwks_file"], new)
        await stack.gateway.Generate(generate(), metadata=bearing(new_token))
        assert (await refusal(stack.gateway.Generate(generate(), metadata=bearing(token)))).reason == (
            "INVALID_CREDENTIALS"  # although it was verified before
        )


async def test_the_tenant_is_the_credentials_whatever_the_metadata_says(tier: TokenizerTier, tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.json", entry(RIGHT_KEY, tenant="one"), entry(OTHER_KEY, tenant="two"))
    gate, limited = Gate(), {"api_key_file": keys, "tenant_max_inflight": 1, "tenant_max_queue": 0, **HTTP}
    async with gated_stack(tier, gate, gateway=limited) as stack, http_client(stack) as client:
        running = asyncio.ensure_future(stack.gateway.Generate(generate(), metadata=bearing(RIGHT_KEY)))
        await reached(gate)
        claims = bearing(RIGHT_KEY, **{"x-tenant-id": "two"})
        assert (await refusal(stack.gateway.Generate(generate(), metadata=claims))).reason == "TENANT_QUEUE_FULL"
        assert (await client.post(CHAT, json=chat(), headers=dict(claims))).status_code == 429
        others = stack.gateway.Generate(generate(), metadata=bearing(OTHER_KEY))
        gate.open()
        await asyncio.gather(running, others)


async def test_a_key_has_so_many_requests_at_once_over_both_protocols(tier: TokenizerTier, tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.json", entry(RIGHT_KEY, max_inflight=1), entry(OTHER_KEY))
    gate = Gate()
    async with (
        gated_stack(tier, gate, gateway={"api_key_file": keys, **HTTP}) as stack,
        http_client(stack) as client,
    ):
        running = asyncio.ensure_future(stack.gateway.Generate(generate(), metadata=bearing(RIGHT_KEY)))
        await reached(gate)
        refused = await refusal(stack.gateway.Generate(generate(), metadata=bearing(RIGHT_KEY)))
        assert refused.reason == "CREDENTIAL_LIMIT"
        assert refused.retry_after_seconds
        response = await client.post(CHAT, json=chat(), headers=dict(bearing(RIGHT_KEY)))
        assert response.status_code == 429
        assert response.json()["error"]["code"] == "rate_limit_exceeded"
        gate.open()
        await running
        await stack.gateway.Generate(generate(), metadata=bearing(RIGHT_KEY))


async def test_a_stream_that_is_left_gives_its_place_back(tier: TokenizerTier, tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.json", entry(RIGHT_KEY, max_inflight=1))
    async with running_stack(tier, gateway={"api_key_file": keys}) as stack:
        for _ in range(2):
            long = generate(stopping=Stopping(max_new_tokens=400))
            stream = stack.gateway.StreamGenerate(long, metadata=bearing(RIGHT_KEY))
            assert (await stream.read()).HasField("started")
            stream.cancel()
            await stack.gateway_server.calls.are(0)


async def test_openais_own_client_shows_a_key_and_understands_the_refusal(tier: TokenizerTier, tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.json", entry(RIGHT_KEY), entry(OTHER_KEY, models=["another"]))
    async with running_stack(tier, gateway={"api_key_file": keys, **HTTP}) as stack:

        async def ask(key: str) -> str:
            http = openai.DefaultAsyncHttpxClient(trust_env=False)
            async with openai.AsyncOpenAI(
                base_url=f"{url_of(stack)}/v1", api_key=key, max_retries=0, http_client=http
            ) as client:
                answer = await client.chat.completions.create(**chat())
            return answer.model

        assert await ask(RIGHT_KEY) == NAME
        with pytest.raises(openai.AuthenticationError):
            await ask("wrong")
        with pytest.raises(openai.PermissionDeniedError):
            await ask(OTHER_KEY)


async def test_a_large_request_without_a_credential_is_refused_and_not_read(
    tier: TokenizerTier, tmp_path: Path
) -> None:
    keys = write_keys(tmp_path / "keys.json", entry(RIGHT_KEY))
    large = "x " * 2_000_000
    async with running_stack(tier, gateway={"api_key_file": keys, **HTTP}) as stack, http_client(stack) as client:
        assert (await refusal(stack.gateway.Generate(generate(large)))).reason == "MISSING_CREDENTIALS"
        response = await client.post(CHAT, json=chat(large))
        assert response.status_code == 401


async def test_a_key_for_the_model_may_use_and_see_it(tier: TokenizerTier, tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.json", entry(RIGHT_KEY, models=[NAME]), entry(OTHER_KEY, models=["fast"]))
    gateway = {"api_key_file": keys, "model_alias": (f"fast={NAME}",), **HTTP}
    async with running_stack(tier, gateway=gateway) as stack, http_client(stack) as client:
        for key in (RIGHT_KEY, OTHER_KEY):  # to be for one of its names is to be for the model
            for name in (NAME, "fast", ""):
                await stack.gateway.Generate(generate(model=name), metadata=bearing(key))
            listed = await client.get("/v1/models", headers=dict(bearing(key)))
            assert {model["id"] for model in listed.json()["data"]} == {NAME, "fast"}
            response = await client.get("/metrics", headers=dict(bearing(key)))
            assert response.status_code == 403
        refused = await refusal(stack.gateway.Generate(generate(model="none"), metadata=bearing(RIGHT_KEY)))
        assert refused.reason == "MODEL_NOT_ALLOWED"  # whether there is one is not said


async def test_no_credential_is_ever_logged(
    tier: TokenizerTier, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    issuer = Issuer()
    shown = [RIGHT_KEY, "wrong-59f0c2d1", issuer.token(), Issuer("one").token()]
    caplog.set_level(logging.DEBUG, "tokenmill")
    gateway = write_access(tmp_path, issuer) | HTTP
    async with running_stack(tier, gateway=gateway) as stack, http_client(stack) as client:
        for credential in shown:
            await client.post(CHAT, json=chat(), headers=dict(bearing(credential)))
            asked = stack.gateway.Generate(generate(), metadata=bearing(credential))
            await asyncio.gather(asked, return_exceptions=True)
    assert caplog.records
    for record in caplog.records:
        text = f"{record.getMessage()} {record.__dict__}"
        assert not any(credential in text for credential in shown)
