"""A stack on one machine, started from a shell that has variables of a deployment."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from cli.environment import ACCESS, PLACES, for_services, left_out
from gateway.settings import GatewaySettings
from model_worker.settings import WorkerSettings
from tests.certificates import Authority
from tests.cli.stack_support import Screen, fake_stack
from tokenizer_service.settings import TokenizerSettings

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

OPTIONS = {
    field.name.upper()
    for settings in (GatewaySettings, WorkerSettings, TokenizerSettings)
    for field in dataclasses.fields(settings)
}


async def test_it_starts_without_those_that_would_keep_it_from_being_called_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Authority(tmp_path).pair("server")
    given = {
        "SSL_CERTFILE": str(pair.certificate),
        "SSL_KEYFILE": str(pair.key),
        "METRICS_PORT": "1",
        "ADMIN_PORT": "1",
        "HTTP_PORT": "1",
        "CONFIG": "/nowhere/at/all.toml",
    }
    for name, value in given.items():
        monkeypatch.setenv(f"TOKENMILL_{name}", value)
    monkeypatch.setenv("TOKENMILL_GRACE_SECONDS", "3")
    screen = Screen()
    async with fake_stack(screen=screen):
        pass
    [told] = [line for line in screen.getvalue().splitlines() if "started without" in line]
    for name in given:
        assert f"TOKENMILL_{name}" in told
    assert "GRACE" not in told
    assert pair.key.name not in told


async def test_nothing_is_said_where_nothing_is_left_out() -> None:
    screen = Screen()
    async with fake_stack(screen=screen):
        pass
    assert "started without" not in screen.getvalue()


def test_others_go_on_to_the_services() -> None:
    given = {
        "TOKENMILL_SSL_CERTFILE": "x",
        "TOKENMILL_JWT_ISSUER": "x",
        "TOKENMILL_API_KEY_FILE": "",
        "SSL_CERTFILE": "x",
    }
    assert left_out(given) == ["TOKENMILL_JWT_ISSUER", "TOKENMILL_SSL_CERTFILE"]
    kept = {"PATH": "x", "TOKENMILL_THREADS": "2", "TOKENMILL_API_KEY": "k", "SSL_CERTFILE": "x"}
    assert for_services(given | kept) == kept | {"TOKENMILL_API_KEY_FILE": ""}


def test_every_name_is_one_of_an_option() -> None:
    assert OPTIONS.issuperset(PLACES)
    for prefix in ACCESS:
        assert any(option.startswith(prefix) for option in OPTIONS), prefix
