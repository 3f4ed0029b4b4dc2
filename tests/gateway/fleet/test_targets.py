"""Where workers are looked for, and what is believed when a look fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.fleet.targets import Given, LookError, TargetError, Targets, source_of
from tests.gateway.fleet.name_server import name_server

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NAME = "workers.tokenmill.svc"


@pytest.mark.parametrize("text", ["", "host", "host:", ":1", "host:0", "host:65536", "host:x", "a b:1", "dns:name"])
def test_what_is_no_target_is_refused(text):
    with pytest.raises(TargetError, match="is not host:port"):
        source_of(text)


@pytest.mark.parametrize("server", ["name.server:53", "1.2.3:53", "nothing"])
def test_a_name_server_is_an_ip_address(server):
    with pytest.raises(TargetError, match="name server"):
        source_of("dns:name:1", server)


async def test_a_target_that_is_given_is_itself():
    assert await source_of("worker-0:50053").look() == ("worker-0:50053",)
    assert await source_of("[::1]:50053").look() == ("[::1]:50053",)


async def test_a_name_has_a_target_at_each_address():
    async with name_server() as server:
        source = source_of(f"dns:{NAME}:7", server.target)
        server.addresses[NAME] = ["10.0.0.2", "10.0.0.1", "fd00::1"]
        assert await source.look() == ["10.0.0.1:7", "10.0.0.2:7", "[fd00::1]:7"]
        server.addresses[NAME] = ["10.0.0.3"]
        assert await source.look() == ["10.0.0.3:7"], "no answer is kept"
        server.addresses[NAME] = []
        assert await source.look() == []
        del server.addresses[NAME]
        assert await source.look() == [], "a headless service without a pod has no name"


async def test_a_name_server_that_fails_says_nothing_of_the_name():
    async with name_server() as server:
        source = source_of(f"dns:{NAME}:7", server.target)
        server.is_broken = True
        with pytest.raises(LookError, match=NAME):
            await source.look()


async def test_a_file_has_a_target_in_each_line(tmp_path: Path):
    path = tmp_path / "workers"
    source = source_of(f"file:{path}")
    with pytest.raises(LookError, match="workers: FileNotFoundError"):
        await source.look()
    path.write_text("# ours\na:1  # the first\n\n b:2\n")
    assert await source.look() == ["a:1", "b:2"]
    path.write_text("a:1\nb\n")
    with pytest.raises(LookError, match="'b' is not host:port"):
        await source.look()


class Scripted:
    def __init__(self, *looks: Sequence[str] | LookError) -> None:
        self.looks = list(looks)

    async def look(self) -> Sequence[str]:
        found = self.looks.pop(0)
        if isinstance(found, LookError):
            raise found
        return found


async def test_changes_are_told_once_and_a_failed_look_changes_nothing():
    told: list[set[str]] = []
    source = Scripted(["a:1"], ["a:1", "b:1"], LookError("down"), ["a:1", "b:1"], [], LookError("down"))
    targets = Targets([source, Given("c:1")], lambda found: told.append(set(found)))
    for _ in range(6):
        await targets.look()
    assert told == [{"a:1", "c:1"}, {"a:1", "b:1", "c:1"}, {"c:1"}]
