"""The tokenizer of a model as a file: had from whichever service has it whole, and remembered."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc
import pytest

from gateway.tokenizer_client import TokenizerClient
from rpc.errors import ServiceError
from tests.gateway.fleet.scripted_tokenizer import ScriptedTokenizer, scripted_tokenizers
from tests.gateway.fleet.test_tokenizer_pool import pool_of
from tests.gateway.test_pipeline import model

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

CODE = grpc.StatusCode
MODEL = model()


class Learned(dict[str, str]):
    """The vocabulary of each model, as the client was told."""

    def learn(self, name: str, fingerprint: str) -> None:
        self[name] = fingerprint


@asynccontextmanager
async def client_of(*services: ScriptedTokenizer, learned: Learned | None = None) -> AsyncIterator[TokenizerClient]:
    learn = (Learned() if learned is None else learned).learn
    async with pool_of(*services, wait_seconds=0) as pool:
        yield TokenizerClient(pool, learn)


def break_off(service: ScriptedTokenizer) -> None:
    service.fails = CODE.UNAVAILABLE


def corrupt(service: ScriptedTokenizer) -> None:
    service.artefact = service.artefact[:-1]


def have_another(service: ScriptedTokenizer) -> None:
    service.name = "another"


@pytest.mark.parametrize("harm", [break_off, corrupt, have_another])
async def test_a_tokenizer_is_had_from_the_service_that_has_it_whole(harm: Callable[[ScriptedTokenizer], None]):
    async with scripted_tokenizers("f", "f") as services:
        harm(services[0])
        for _ in range(4):
            async with client_of(*services) as client:
                assert (await client.artefact(MODEL, "f")).vocabulary_fingerprint == "f"
        assert services[1].asked == 4


@pytest.mark.parametrize(
    ("harm", "code", "reason"),
    [
        (break_off, CODE.UNAVAILABLE, "PEER_UNAVAILABLE"),
        (corrupt, CODE.UNAVAILABLE, "TOKENIZER_CORRUPT"),
        (have_another, CODE.FAILED_PRECONDITION, "VOCABULARY_MISMATCH"),
    ],
)
async def test_what_no_service_has_whole_is_refused(
    harm: Callable[[ScriptedTokenizer], None], code: grpc.StatusCode, reason: str
):
    async with scripted_tokenizers("f", "f") as services, client_of(*services) as client:
        for service in services:
            harm(service)
        with pytest.raises(ServiceError) as refusal:
            await client.artefact(MODEL, "f")
        assert (refusal.value.code, refusal.value.reason) == (code, reason)


async def test_what_was_fetched_once_is_known_without_any_service():
    learned = Learned()
    async with scripted_tokenizers("f") as [service], client_of(service, learned=learned) as client:
        artefact = await client.artefact(MODEL, "f")
        await service.stop()
        assert await client.artefact(MODEL, "f") is artefact
        assert await client.template_fingerprint(MODEL) == "t"
        assert learned == {MODEL.base: "f"}
