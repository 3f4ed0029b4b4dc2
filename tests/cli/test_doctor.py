"""Every finding of the doctor, each brought about."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

import pytest

from cli import doctor
from cli.doctor import MIB, Finding
from tests.rpc.scripted_service import ScriptedService, connected

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def problems(findings: Iterator[Finding]) -> list[str]:
    return [finding.message for finding in findings if finding.level == "problem"]


def levels(findings: Iterator[Finding]) -> set[str]:
    return {finding.level for finding in findings}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A complete model folder, as far as names go."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"x" * 10)
    (tmp_path / "chat_template.jinja").write_text("")
    return tmp_path


def test_a_package_that_is_missing() -> None:
    assert problems(doctor.packages(lambda _: True)) == []
    [problem] = problems(doctor.packages(lambda name: name != "dns"))
    assert "gateway" in problem
    assert "dns" in problem


def test_a_port_that_somebody_else_has() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        [problem] = problems(doctor.ports({"HTTP": port}))
        assert str(port) in problem
    assert problems(doctor.ports({"HTTP": port})) == []


async def test_a_port_that_one_of_ours_has_is_no_problem() -> None:
    async with connected(ScriptedService()) as (server, _):
        import asyncio

        findings = await asyncio.to_thread(lambda: list(doctor.ports({"gateway": server.port})))
    assert [finding.level for finding in findings] == ["note"]


def test_a_folder_that_is_complete(folder: Path) -> None:
    assert levels(doctor.model_folder(folder)) == {"ok"}


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    [problem] = problems(doctor.model_folder(tmp_path / "nowhere"))
    assert "no model folder" in problem


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_file_that_is_missing(folder: Path, name: str) -> None:
    (folder / name).unlink()
    [problem] = problems(doctor.model_folder(folder))
    assert name in problem


def test_a_shard_that_is_missing(folder: Path) -> None:
    weight_map = {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    [problem] = problems(doctor.model_folder(folder))
    assert "model-00002-of-00002.safetensors" in problem


def test_a_file_that_broke_off(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"model": ')
    [problem] = problems(doctor.model_folder(folder))
    assert "not JSON" in problem


def test_a_model_without_a_chat_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    assert levels(doctor.model_folder(folder)) == {"ok", "note"}


def test_too_little_memory() -> None:
    assert problems(doctor.memory(100 * MIB, 8000 * MIB)) == []
    [problem] = problems(doctor.memory(8000 * MIB, 100 * MIB))
    assert "memory" in problem
    assert doctor.available_bytes() > 0


def test_what_computes() -> None:
    assert levels(doctor.processor("2.13.0", has_gpu=True, has_compiler=False)) == {"ok"}
    assert levels(doctor.processor("2.13.0+cpu", has_gpu=True, has_compiler=True)) == {"problem"}
    assert levels(doctor.processor("2.13.0+cpu", has_gpu=False, has_compiler=True)) == {"note"}
    assert len(list(doctor.processor(None, has_gpu=False, has_compiler=False))) == 2


def test_the_command_prints_what_it_found_and_fails_for_a_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import argparse

    assert doctor.run(argparse.Namespace(model=tmp_path / "nowhere")) == 1
    assert "✗ there is no model folder" in capsys.readouterr().out
